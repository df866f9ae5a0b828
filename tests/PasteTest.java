package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.*;

/// The commands that the tool prints for its user to paste.
@Tag("slow")
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
            JAR(Text.shell(ProcessHandle.current().info().command().orElse("java")) + " -jar 'one jar.jar'");

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
            try (var server = new Demo(List.of("id", "text"), "text")) {
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
                -,                               one jar.jar, true,        JAVA -jar 'one jar.jar'
                ./jbang test,                    a.jar,       false,       JAVA -jar a.jar
                """)
        void isTheTypedCommandWithoutArgumentsOrAnEquivalentCommand(String typed, String classes,
                boolean isInFolder, String command) {
            var java = ProcessHandle.current().info().command().orElseThrow();
            assertEquals(command.replace("JAVA", java), Env.findInvocation(typed == null ? null
                    : typed.replace(' ', '\037'), List.of("status", "-V"), classes, isInFolder));
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

        private static final String AGAIN = "retry -i data.csv -o results.jsonl",
                OPTIONS = " --no-bom --demo -c 3 --id-column 'it'\\''s' --user me --timeout 9";

        @Test
        void omitsOptionsThatStartOverLeaveRowsOutOrPayAgain() throws IOException {
            assertEquals(AGAIN + OPTIONS,
                    next(run("--limit", "1", "--fresh", "--ids=[fail]", "--rerun-changed", "--resend-unknown")));
            assertEquals("shell -i data.csv -o results.jsonl --demo --id-column 'it'\\''s'",
                    next("retry", "--again", "-i", "data.csv",
                    "--output", "results.jsonl", "--demo", "--id-column=it's", "--", "[fail]"));
        }

        @Test
        void containsTheInputEvenIfStatusWasGivenOnlyTheOutput() throws IOException {
            next(run());

            assertEquals(AGAIN + OPTIONS, next("status", "-o", "results.jsonl"));
            assertEquals(AGAIN + " --id-column 'it'\\''s' --no-bom --demo -c 3 --user me --timeout 9",
                    next("status", "-o", "results.jsonl", "-i", "data.csv", "--id-column", "it's"));
        }

        @Test
        void usesTheInputThatMovedWithTheResults() throws IOException {
            next(run());
            Files.createDirectories(file("moved"));
            for (var name : List.of("data.csv", "results.jsonl.log"))
                Files.move(file(name), file("moved/" + name));

            assertEquals("retry -i moved/data.csv -o moved/results.jsonl" + OPTIONS,
                    next("status", "-o", "moved/results.jsonl"));
        }

        @Test
        void quotesShellSyntaxFromTheLog() throws IOException {
            next(run());
            Files.writeString(file("$(id);id"), "");
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log")
                    .replaceAll("\"input\":\"[^\"]*\"", "\"input\":\"\\$(id);id\"")
                    .replace("\"--user=me\"", Given.json("'--user=$(id)','--no-check','',null,"
                            + "'--base-url=http://other','--files=-a','--demo x'")));

            assertEquals("retry -i '$(id);id' -o results.jsonl --no-bom --demo -c 3 --id-column 'it'\\''s' --user '$(id)'"
                            + " --no-check --files=-a --timeout 9",
                    next("status", "-o", "results.jsonl"));
        }

        @Test
        void repeatsTheOptionsThatTheBatchNeeds() throws IOException {
            next("run", "-i", "data.csv", "-o", "results.jsonl", "--id-column", "it's", "-c", "2", "--demo",
                    "--user", "it's me", "--mode=blocking", "--allow-empty", "--save-files=a folder",
                    "--workflow-id", "main");

            assertEquals(AGAIN + " --id-column 'it'\\''s' -c 2 --demo --user 'it'\\''s me' --mode blocking --allow-empty"
                    + " --save-files 'a folder' --workflow-id main", next("status", "-o", "results.jsonl"));
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
                assertEquals(AGAIN + " --progress off --user you --demo --env-file a.env --timeout 9", call.next().replace(folder + "/", ""));
        }

        @Test
        void exportsTheRowsAddedFromAnotherFile() throws IOException {
            next(run());
            Files.writeString(file("data.csv"), "it's\nb\nc\n");

            var call = call(Map.of(), "run", "--demo", "-i", input(), "-o", output(), "--id-column", "it's", "--add")
                    .says("\nAll rows of " + input() + " succeeded.\n");

            call(Map.of(), split(call.next().replace("out.csv", path("out.csv")))).exits(3);

            assertEquals(3, Files.readAllLines(file("out.csv")).size());
        }
    }

    /// Types commands with each option, and after each fault, and pastes what they suggest.
    @Nested
    class EachSuggestedCommand {
        /// The options of a `run`, or `retry` or `check` with theirs.
        private static final String TYPED = """
                run
                run --id-column nr
                run --id-column #
                run --map note=tone
                run --map note=tone --map nr=text
                run --map=
                run --var tone=friendly\u00a0words
                run --var tone=
                run --var lang=de
                run --encoding UTF-8
                run --delimiter ,
                run --delimiter tab
                run --header-row 1
                run --skip-rows 1
                run --quote none
                run --decimal ,
                run --sheet one
                run --rows /data
                run --query-column text
                run --files-column text
                run --shard 1/2
                run --limit 1
                run --limit 1 --ids 2,3
                run --ids 1
                run --sample 1
                run --sample 2 --seed 7
                run --resend-unknown
                run --rerun-changed
                run --fresh
                run --fresh --limit 1
                run --add
                run --base-url URL
                run --env-file ENV
                run --workflow-id main
                run --mode blocking
                run --mode streaming
                run --require /row_id
                run --require /row_id --require /none:number
                run --require=
                run --allow-unmapped
                run --allow-empty
                run --files DIR
                run --no-check
                run -c 2
                run --concurrency=2
                run -w 10ms
                run --rate 100/s
                run --max-failures 1
                run --max-failures 50%
                run --max-failures off
                run --max-tokens 1
                run --max-tokens 1000000
                run --max-cost 0.5
                run --max-cost 1000 --mode streaming
                run --timeout 9
                run --max-retries 0
                run --user me
                run --user it's
                run --user -me
                run --user=--me
                run --retry-failed-runs always --max-retries 0
                run --settle 1s
                run --grace 1
                run --no-bom
                run --json
                run --save-files DIR
                run --progress plain
                retry
                retry --limit 1
                retry 2
                retry 2 1 --again
                retry -c 1 --user me 2
                check --show 1
                check --shard 2/2
                check --id-column nr
                check --json
                """;
        private Simulated dify;
        private final List<String> pasted = new ArrayList<>(), rejected = new ArrayList<>();

        @BeforeEach
        void start() throws IOException {
            var form = Given.json("[{'paragraph':{'variable':'text','required':true}},"
                    + "{'paragraph':{'variable':'tone'}}]");
            dify = new Simulated("--latency", "1ms", "--form", Files.writeString(file("form.json"), form).toString());
        }

        /// Pastes the suggestions of a call.
        private void paste(Call call) throws IOException {
            var lines = Pattern.compile("(?m)^(?:Next|  or): (.*)").matcher(call.out() + call.err()).results();
            for (var line : lines.toList()) {
                var text = line.group(1);
                pasted.add(text);
                var here = text.replace("out.csv", path("out.csv")).replace("report.html", path("report.html"))
                        .replace("-o results.jsonl", "-o " + output());
                var words = split(here);
                var shellOptions = Stream.of(words).skip(5).toArray(String[]::new);
                for (var name : List.of("out.csv", "report.html")) Files.deleteIfExists(file(name));
                var again = !text.startsWith("difyexec") ? inShell(dify.settings(), here)
                        : words[0].equals("shell") ? inShell(dify.settings(), "failures", shellOptions)
                        : call(dify.settings(), words);
                if (again.code() == Exit.UNUSABLE.code) rejected.add(text + "\n  after " + call + "\n  " + again);
            }
        }

        /// Types a line as the first session of a batch of such rows, and commands that follow it.
        private void type(String line, String... texts) throws IOException {
            for (var name : names()) if (name.startsWith("results") || name.equals("out.csv")) Files.delete(file(name));
            csv("id,nr,text,note", "1,11," + texts[0] + ",x", "2,12," + texts[1] + ",y", "3,13,three,z");
            var options = line.replace("URL", dify.server.baseUrl().toString()).replace("ENV", path("a.env"))
                    .replace("DIR", path("dir")).split(" ");
            var batch = Stream.of("-i", input(), "-o", output()).limit(line.startsWith("check") ? 2 : 4);
            if (line.startsWith("retry")) call(dify.settings(), typed("run", "--max-retries", "0"));
            paste(call(dify.settings(), Stream.concat(Stream.of(options), batch).map(word -> word.replace('\u00a0', ' '))
                    .toArray(String[]::new)));
            if (!Files.exists(file("results.jsonl.log"))) return;
            paste(call(Map.of(), "status", "-o", output()));
            paste(ofBatch("export", path("all.csv"), "--force"));
            paste(inShell(dify.settings(), "run --limit 1"));
        }

        @Test
        void isAcceptedByTheToolWhateverWasTyped() throws IOException {
            Files.createDirectories(file("dir"));
            Files.writeString(file("a.env"), "");

            for (var line : TYPED.lines().toList()) type(line, "one", "[fail!]");

            assertEquals(List.of(), rejected);
            assertTrue(pasted.size() >= 200, () -> pasted.size() + " suggestions: " + pasted);
        }

        /// The first row is answered so; the others succeed.
        @ParameterizedTest
        @ValueSource(strings = {"[fail!]", "[partial!]", "[refuse!]", "the key is deleted"})
        void isAcceptedByTheToolWhateverTheServerAnswers(String answer) throws IOException {
            for (var line : List.of("run --limit 1", "run", "retry", "retry 1 --again", "run --resend-unknown")) {
                start(); // with a key that is valid again
                if (answer.equals("the key is deleted")) dify.app.onStart(() -> dify.app.delete(KEY));
                type(line + " --max-retries 0 -c 1", answer, "two");
            }

            assertEquals(List.of(), rejected);
            assertTrue(pasted.size() >= 8, pasted::toString);
        }
    }
}
