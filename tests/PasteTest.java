package difyexec;

import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// The commands that the tool prints for its user to paste.
@Timeout(300)
final class PasteTest extends WholeCommand {
    private static final Pattern NEXT = Pattern.compile("(?m)^Next: (.*)$");

    private static String next(String said) {
        var lines = NEXT.matcher(said).results().map(line -> line.group(1)).toList();
        assertEquals(1, lines.size(), said);
        return lines.getFirst();
    }

    /// Each way of starting the tool, for real. Needs the checkout; built once, from a copy: another JBang may be
    /// building the script of the checkout.
    @Nested
    class EachWayOfStarting {
        @TempDir static Path home;

        private final List<String> pasted = new ArrayList<>();

        /// What is typed before the command.
        enum Way {
            LAUNCHER("./jbang DifyExec.java"), JBANG("jbang DifyExec.java"), INSTALLED("difyexec"),
            JAR(Plain.shell(JAVA.toString()) + " -XX:+UseSerialGC -jar 'one jar.jar'");

            private final String words;

            Way(String words) {
                this.words = words;
            }
        }

        private static final Path JAVA = Path.of(System.getProperty("java.home"), "bin", "java");

        @BeforeAll
        static void build() throws Exception {
            for (var name : List.of("DifyExec.java", "jbang")) Files.copy(checkout().resolve(name), home.resolve(name),
                    StandardCopyOption.COPY_ATTRIBUTES);
            bash("./jbang export fatjar --offline -O 'one jar.jar' DifyExec.java", "");
            bash("./jbang app install --offline --name difyexec DifyExec.java", "");
            var jbang = Files.createDirectories(home.resolve("bin")).resolve("jbang");
            Files.writeString(jbang, "#!/bin/sh\nshift\nexec '" + JAVA + "' -cp '" + home.resolve("one jar.jar")
                    + "' difyexec.DifyExec \"$@\"\n");
            assertTrue(jbang.toFile().setExecutable(true));
        }

        /// A line as bash runs it in the folder of the script, and what it says.
        ///
        /// @param folder what the PATH has besides the system's
        private static String bash(String line, String folder) throws Exception {
            var builder = new ProcessBuilder("bash", "-c", line).directory(home.toFile()).redirectErrorStream(true);
            var user = System.getProperty("user.home");
            builder.environment().keySet().removeIf(name -> name.matches("DIFY.*|JBANG.*|JAVA_TOOL.*|JDK_.*"));
            builder.environment().putIfAbsent("XDG_CACHE_HOME", user + "/.cache");
            builder.environment().putAll(Map.of("HOME", home.toString(), "JAVA_HOME", System.getProperty("java.home"),
                    "JBANG_REPO", user + "/.m2/repository", "PATH", folder + System.getenv("PATH")));
            var process = builder.start();
            process.getOutputStream().close();
            var said = new String(process.getInputStream().readAllBytes(), UTF_8);
            assertTrue(Set.of(OK, ROWS_LEFT).contains(process.waitFor()), line + "\n" + said);
            return said;
        }

        private String start(Way way, String line) throws Exception {
            return bash(line, switch (way) {
                case LAUNCHER, JAR -> "";
                case JBANG -> home.resolve("bin") + ":";
                case INSTALLED -> home.resolve(".jbang/bin") + ":";
            });
        }

        /// Runs the line that something says is next, unless it was run before.
        private String paste(Way way, String command, String said) throws Exception {
            var line = next(said);
            assertTrue(line.startsWith(way.words + " " + command + " -i "), line);
            if (pasted.contains(line)) return said;
            pasted.add(line);
            return start(way, line);
        }

        private List<String> linesOfTheLog() throws IOException {
            return Files.readAllLines(home.resolve("results.jsonl.log"));
        }

        @ParameterizedTest
        @EnumSource
        void printsLinesThatRunOnTheSameBatch(Way way) throws Exception {
            for (var name : List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry"))
                Files.deleteIfExists(home.resolve(name));
            Files.writeString(home.resolve("my data.csv"), "text|nom\nx|é\n[fail]|b\n", StandardCharsets.ISO_8859_1);
            var input = " -i 'my data.csv' --delimiter '|' --encoding latin1 --id-column nom";
            var output = " -o results.jsonl";

            var run = paste(way, "run", start(way, way.words + " check --demo" + input));
            assertTrue(run.contains("1 succeeded, 1 failed in "), run);
            var begun = linesOfTheLog();
            var retry = paste(way, "retry", run);
            assertTrue(retry.contains("\n1 failed in "), retry);
            paste(way, "retry", retry);
            paste(way, "retry", start(way, way.words + " status" + output));
            paste(way, "retry", start(way, way.words + " export out.csv --force" + input + output));
            paste(way, "retry", start(way, "echo status | " + way.words + " shell --demo" + input + output));

            assertEquals(begun, linesOfTheLog().subList(0, begun.size()));
        }
    }

    @Nested
    class TheInvocation {
        private Invocation of(String command, String process, String... args) {
            var variables = Map.of("PATH", file("bin") + ":" + file("none"), "DIFYEXEC_COMMAND", command);
            return Invocation.of(variables::get, List.of(process.split(" ")), List.of(args), folder);
        }

        private void program(String name) throws IOException {
            Files.createDirectories(file("bin"));
            assertTrue(Files.createFile(file("bin/" + name)).toFile().setExecutable(true));
        }

        @ParameterizedTest(name = "{0}, {1}: {2}")
        @CsvSource(useHeadersInDisplayName = true, quoteCharacter = '"', textBlock = """
                typed,                          process,                         command
                ./jbang DifyExec.java status -V, java -cp x X status -V,         ./jbang DifyExec.java
                ./jbang run -Da=b X.java status -V, java -cp x X status -V,      ./jbang run -Da=b X.java
                /a/difyexec,                    java -cp x X status -V,          /a/difyexec
                ./jbang test,                   java -cp x X status -V,          difyexec
                "",                             java -cp x X status -V,          difyexec
                "",                             java -Xmx1g -jar a.jar status -V, java -Xmx1g -jar a.jar
                ./jbang test,                   java -jar a.jar status -V,       java -jar a.jar
                """)
        void isWhatStandsBeforeTheArguments(String typed, String process, String command) {
            assertEquals(command, of(typed.replace(' ', '\037'), process, "status", "-V").toString());
        }

        @Test
        void namesAProgramOfThePathWithoutItsFolder() throws IOException {
            program("jbang");

            assertEquals("jbang DifyExec.java", of(file("bin/jbang") + "\037DifyExec.java\037status", "java", "status")
                    .toString());
            assertEquals(file("jbang") + " DifyExec.java", of(file("jbang") + "\037DifyExec.java\037status", "java",
                    "status").toString());
        }

        @Test
        void byJBangItselfIsTheScriptOfTheFolderUnlessACommandIsInstalled() throws IOException {
            program("jbang");
            assertEquals("difyexec", of("", "java", "status").toString());

            Files.createFile(file("DifyExec.java"));
            assertEquals("jbang DifyExec.java", of("", "java", "status").toString());

            program("difyexec");
            assertEquals("difyexec", of("", "java", "status").toString());
        }
    }

    @Nested
    class TheNextCall {
        private final String[] all = {"-i", "data.csv", "-o", "results.jsonl", "--no-bom", "--demo=1.14.2", "-c", "3",
            "--id-column", "it's", "--user", "", "--timeout", "9"};

        private String next(String... args) throws IOException {
            Files.writeString(file("data.csv"), "it's\n[fail]\n");
            var named = Stream.of(args).map(arg -> arg.contains(".csv") || arg.contains(".jsonl")
                    ? file(arg).toString() : arg).toArray(String[]::new);
            var call = call(Map.of(), named);
            return PasteTest.next(call.out() + call.err()).replace(folder + "/", "");
        }

        private String[] run(String... more) {
            return Stream.of(Stream.of("run"), Stream.of(all), Stream.of(more)).flatMap(words -> words)
                    .toArray(String[]::new);
        }

        private static final String AGAIN = "difyexec retry -i data.csv -o results.jsonl";
        private static final String OPTIONS =
                "--id-column='it'\\''s' --timeout=9 --user='' -c 3 --no-bom --demo=1.14.2";

        private static Set<String> words(String line) {
            return Set.of(line.split(" "));
        }

        @Test
        void hasTheOptionsOfThisOneButThoseThatChooseRows() throws IOException {
            var next = next(run("--limit", "1", "--fresh", "--ids", "[fail]", "--rerun-changed"));

            assertTrue(next.startsWith(AGAIN + " --"), next);
            assertEquals(words(AGAIN + " " + OPTIONS), words(next));
        }

        @Test
        void afterStatusHasThoseOfTheLog() throws IOException {
            next(run());

            assertEquals(words(AGAIN + " " + OPTIONS), words(next("status", "-o", "results.jsonl")));
        }

        @Test
        void afterStatusFindsTheInputThatWasMovedWithTheResults() throws IOException {
            next(run());
            Files.createDirectories(file("moved"));
            for (var name : List.of("data.csv", "results.jsonl.log"))
                Files.move(file(name), file("moved/" + name));

            var next = next("status", "-o", "moved/results.jsonl");

            assertTrue(next.startsWith("difyexec retry -i moved/data.csv -o moved/results.jsonl "), next);
        }

        @Test
        void afterStatusOfAnOldLogHasWhatIsTyped() throws IOException {
            next(run());
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log")
                    .replaceAll("mode=auto c=3[^\"]*", "mode=auto c=3"));

            assertEquals("difyexec retry -i CSV -o results.jsonl", next("status", "-o", "results.jsonl"));
            assertEquals(AGAIN + " --id-column='it'\\''s'", next("status", "-o", "results.jsonl", "-i", "data.csv",
                    "--id-column", "it's"));
        }

        @Test
        void ofALogCannotSmuggleInACommand() throws IOException {
            next(run());
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log")
                    .replaceAll("mode=auto c=3[^\"]*", "mode=auto c=3 -c=\\$(id);id --x`id`"));

            assertEquals("difyexec retry -i CSV -o results.jsonl -c '$(id);id' '--x`id`'",
                    next("status", "-o", "results.jsonl"));
        }

        @Test
        void ofABatchWhoseRowsAreOpenRunsWhenPasted() throws IOException {
            next(run());
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log").replace("\"failed\"",
                    "\"unknown\""));
            Files.delete(file("results.jsonl.retry"));

            assertEquals(words(AGAIN + " " + OPTIONS), words(next("status", "-o", "results.jsonl")));
        }
    }
}
