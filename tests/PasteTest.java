package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.*;

/// The commands that the tool prints for its user to paste.
@Timeout(300)
final class PasteTest extends WholeCommand {
    /// Each way of starting the tool, for real. Needs the checkout. Builds from a copy, because another JBang may be
    /// building the script of the checkout. Each way has its own folder.
    @Nested
    class EachWayToStartTheTool {
        @TempDir static Path home;

        private final List<String> pasted = new ArrayList<>();

        /// The tool is started with these words, which precede the arguments.
        enum Way {
            LAUNCHER("./jbang DifyExec.java"), JBANG("jbang DifyExec.java"), INSTALLED("difyexec"),
            JAR("java -jar 'one jar.jar'");

            private final String words;

            Way(String words) {
                this.words = words;
            }

            /// Returns where it is started. The launcher must be beside the script.
            Path folder() {
                return this == LAUNCHER ? home : home.resolve(name());
            }
        }

        private static final Path JAVA = Path.of(System.getProperty("java.home"), "bin", "java");
        private static final String INPUT = " -i 'my data.csv' --delimiter '|' --encoding latin1 --id-column nom";

        @BeforeAll
        static void build() throws Exception {
            for (var way : Way.values()) Files.writeString(Files.createDirectories(way.folder()).resolve("my data.csv"),
                    "text|nom\nx|é\n[fail]|b\n", StandardCharsets.ISO_8859_1);
            for (var name : List.of("DifyExec.java", "jbang", "JBANG/DifyExec.java"))
                Files.copy(checkout().resolve(Path.of(name).getFileName()), home.resolve(name),
                        StandardCopyOption.COPY_ATTRIBUTES);
            start(Way.LAUNCHER, "./jbang export fatjar --offline -O 'JAR/one jar.jar' DifyExec.java");
            start(Way.LAUNCHER, "./jbang app install --offline --name difyexec DifyExec.java");
            executable(Files.createDirectories(home.resolve("bin")).resolve("jbang"), "#!/bin/sh\nshift\nexec '" + JAVA
                    + "' -cp '" + Way.JAR.folder().resolve("one jar.jar") + ":more.jar' difyexec.DifyExec \"$@\"\n");
        }

        /// Runs a line in bash, in the folder of a way, and returns its output.
        private static String start(Way way, String line) throws Exception {
            var user = System.getProperty("user.home");
            return bash(way.folder(), Map.of("HOME", home.toString(), "JAVA_HOME", System.getProperty("java.home"),
                    "XDG_CACHE_HOME", Objects.requireNonNullElse(System.getenv("XDG_CACHE_HOME"), user + "/.cache"),
                    "JBANG_REPO", user + "/.m2/repository", "PATH", programs(way) + System.getenv("PATH"),
                    "JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC", "LC_ALL", "C.UTF-8"), line);
        }

        /// Returns what comes before the system's PATH.
        private static String programs(Way way) {
            return switch (way) {
                case LAUNCHER -> "";
                case JAR -> JAVA.getParent() + ":";
                case JBANG -> home.resolve("bin") + ":";
                case INSTALLED -> home.resolve(".jbang/bin") + ":";
            };
        }

        /// Runs the suggested next command, unless it was run before.
        private String paste(Way way, String command, String said) throws Exception {
            var lines = said.lines().filter(line -> line.startsWith("Next: ")).toList();
            assertEquals(1, lines.size(), said);
            var line = lines.getFirst().substring("Next: ".length());
            assertTrue(line.startsWith(way.words + " " + command + " -i "), line);
            if (pasted.contains(line)) return said;
            pasted.add(line);
            return start(way, line);
        }

        /// Checks a batch, and runs it with the pasted command.
        private String runByPasting(Way way) throws Exception {
            var run = paste(way, "run", start(way, way.words + " check --demo" + INPUT));
            assertTrue(run.contains("1 succeeded, 1 failed in "), run);
            return run;
        }

        @ParameterizedTest
        @EnumSource(mode = EnumSource.Mode.EXCLUDE, names = "JAR")
        void printsCommandsThatRunWhenPasted(Way way) throws Exception {
            runByPasting(way);
        }

        @Test
        void theJarPrintsRunnableCommandsAfterEachCommand() throws Exception {
            var run = runByPasting(Way.JAR);
            var log = Way.JAR.folder().resolve("results.jsonl.log");
            var before = Files.readString(log);

            paste(Way.JAR, "shell", paste(Way.JAR, "retry", run));
            for (var typed : List.of(" status" + INPUT, " export out.csv --force" + INPUT))
                paste(Way.JAR, "shell", start(Way.JAR, Way.JAR.words + typed + " -o results.jsonl"));

            assertTrue(Files.readString(log).startsWith(before));
        }

        /// The jar is started by its name alone: `main` sets the properties.
        @Test
        void theJarRunsABatchWithoutWarnings() throws Exception {
            Files.writeString(Way.JAR.folder().resolve("three.csv"), "id,text\n1,a\n2,b\n3,c\n");
            try (var server = new Demo(List.of("id", "text"))) {
                var said = start(Way.JAR, "DIFY_API_KEY=" + KEY + " DIFY_API_BASE_URL=" + server.baseUrl() + " '" + JAVA
                        + "' -jar 'one jar.jar' run --mode streaming -i three.csv -o three.jsonl");

                assertTrue(said.contains("3 succeeded in "), said);
                assertFalse(said.contains("WARNING"), said);
            }
            try (var results = Files.lines(Way.JAR.folder().resolve("three.jsonl"))) {
                assertEquals(3, results.count());
            }
        }
    }

    @Nested
    class TheToolInvocation {
        @ParameterizedTest(name = "{0}, {1}: {2}")
        @CsvSource(useHeadersInDisplayName = true, quoteCharacter = '"', nullValues = "-", textBlock = """
                typed,                           classes,   in the folder, command
                ./jbang DifyExec.java status -V, x.jar:y.jar, true,        ./jbang DifyExec.java
                ./jbang run -Da=b X.java status -V, x.jar:y.jar, true,     ./jbang run -Da=b X.java
                /a/difyexec,                     x.jar:y.jar, true,        /a/difyexec
                ./jbang test,                    x.jar:y.jar, false,       difyexec
                -,                               x.jar:y.jar, true,        jbang DifyExec.java
                -,                               one jar.jar, true,        java -jar 'one jar.jar'
                ./jbang test,                    a.jar,       false,       java -jar a.jar
                """)
        void isTheTypedCommandWithoutArgumentsOrAnEquivalentCommand(String typed, String classes,
                boolean isInFolder, String command) {
            assertEquals(command, Env.findInvocation(typed == null ? null : typed.replace(' ', '\037'),
                    List.of("status", "-V"),
                    classes, isInFolder));
        }
    }

    @Nested
    class TheSuggestedCommand {
        private final String[] all = {"-i", "data.csv", "-o", "results.jsonl", "--no-bom", "--demo", "-c", "3",
            "--id-column", "it's", "--user", "me", "--timeout", "9"};

        private String next(String... args) throws IOException {
            Files.writeString(file("data.csv"), "it's\n[fail]\n");
            var named = Stream.of(args).map(arg -> arg.contains(".csv") || arg.contains(".jsonl")
                    ? path(arg) : arg).toArray(String[]::new);
            return call(Map.of(), named).next().replace(folder + "/", "");
        }

        private String[] run(String... more) {
            return words(List.of(words(List.of("run"), all)), more);
        }

        private static final String AGAIN = "retry -i data.csv -o results.jsonl";

        @Test
        void omitsOptionsForOneSessionAndOptionsStoredInTheLog() throws IOException {
            assertEquals(AGAIN + " --no-bom --demo -c 3 --user me --timeout 9",
                    next(run("--limit", "1", "--fresh", "--ids=[fail]", "--rerun-changed", "--resend-unknown")));
            assertEquals("shell -i data.csv -o results.jsonl --demo",
                    next("retry", "--again", "-i", "data.csv",
                    "--output", "results.jsonl", "--demo", "--id-column=it's", "--", "[fail]"));
        }

        @Test
        void containsTheInputEvenIfStatusWasGivenOnlyTheOutput() throws IOException {
            next(run());

            assertEquals(AGAIN + " --demo -c 3 --user me --timeout 9", next("status", "-o", "results.jsonl"));
            assertEquals(AGAIN + " --demo -c 3 --user me --timeout 9", next("status", "-o", "results.jsonl", "-i", "data.csv",
                    "--id-column", "it's"));
        }

        @Test
        void usesTheInputThatMovedWithTheResults() throws IOException {
            next(run());
            Files.createDirectories(file("moved"));
            for (var name : List.of("data.csv", "results.jsonl.log"))
                Files.move(file(name), file("moved/" + name));

            assertEquals("retry -i moved/data.csv -o moved/results.jsonl --demo -c 3 --user me --timeout 9",
                    next("status", "-o", "moved/results.jsonl"));
        }

        @Test
        void quotesShellSyntaxFromTheLog() throws IOException {
            next(run());
            Files.writeString(file("$(id);id"), "");
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log")
                    .replaceAll("\"input\":\"[^\"]*\"", "\"input\":\"\\$(id);id\"")
                    .replace("\"--user=me\"", Given.json("'--user=$(id)','--mode=a;id','--no-check','',null,"
                            + "'--base-url=http://other','--files=--base-url=http://other','--demo x'")));

            assertEquals("retry -i '$(id);id' -o results.jsonl --demo -c 3 --user '$(id)' --mode 'a;id' --no-check"
                            + " --files=--base-url=http://other --timeout 9",
                    next("status", "-o", "results.jsonl"));
        }

        @Test
        void repeatsTheOptionsThatTheBatchNeeds() throws IOException {
            next("run", "-i", "data.csv", "-o", "results.jsonl", "--id-column", "it's", "-c", "2", "--demo",
                    "--user", "it's me", "--mode=blocking", "--allow-empty", "--save-files=a folder",
                    "--workflow-id", "main");

            assertEquals(AGAIN + " -c 2 --demo --user 'it'\\''s me' --mode blocking --allow-empty --save-files 'a folder'"
                    + " --workflow-id main", next("status", "-o", "results.jsonl"));
            assertEquals("shell -i data.csv -o results.jsonl --allow-empty --demo",
                    next("retry", "-i", "data.csv", "-o", "results.jsonl", "--allow-empty", "--save-files=a folder",
                            "-c", "2", "--demo"));
        }

        /// A session of the shell runs with the options of `shell`, unless a command has its own.
        @Test
        void containsTheOptionsWithWhichAShellWasStarted() throws IOException {
            Files.writeString(file("data.csv"), "id\n[fail]\n");
            Files.writeString(file("a.env"), "");
            var shell = words(List.of("--demo", "--env-file", path("a.env"), "--user", "me", "--timeout", "9"));

            inShell(Map.of(), "run --progress off --user you", shell).exits(3);

            for (var call : List.of(call(Map.of(), "status", "-o", output()), ofBatch("export", path("out.csv"))))
                assertEquals(AGAIN + " --user you --demo --env-file a.env --timeout 9", call.next().replace(folder + "/", ""));
        }

        @Test
        void exportsTheRowsAddedFromAnotherFile() throws IOException {
            next(run());
            Files.writeString(file("data.csv"), "it's\nb\nc\n");

            var call = call(Map.of(), "run", "--demo", "-i", input(), "-o", output(), "--id-column", "it's", "--add")
                    .says("\nAll rows of " + input() + " succeeded.\n");

            call(Map.of(), call.next().replace("out.csv", path("out.csv")).split(" ")).exits(3);

            assertEquals(3, Files.readAllLines(file("out.csv")).size());
        }
    }
}
