package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Separate processes, and the launcher.
final class ProcessTest extends WholeCommand {
    @Tag("slow")
    @Nested
    class ATerminalOfAnyWidth {
        /// One process runs all commands, in a terminal whose width it changes.
        @Test
        void doesNotMakeACommandFail() throws Exception {
            assumeTrue(Files.isExecutable(Path.of("/usr/bin/script")), "script (a fake terminal) is not installed");
            csv("id,text,a rather long name of a column", "1,a,b", "[fail],c,d");
            Files.writeString(file("bad.csv"), "Nr,question\n1,a\n1,NULL\n");
            var commands = List.of("check --demo -i data.csv", "check -i bad.csv", "run --demo -i data.csv -o WIDTH.jsonl",
                    "retry --demo -i data.csv -o WIDTH.jsonl", "status -i data.csv -o WIDTH.jsonl",
                    "export -i data.csv -o WIDTH.jsonl WIDTH.csv", "compare WIDTH.jsonl WIDTH.jsonl",
                    "verify -o WIDTH.jsonl", "shell --demo -i data.csv -o WIDTH.jsonl", "run -i real.csv -o real-WIDTH.jsonl",
                    "verify -o real-WIDTH.jsonl", "run --help-all");
            Files.writeString(file("real.csv"), "id,q\n1,a\n2,b\n");
            var java = new ArrayList<>(Given.Tool.words());
            java.set(java.size() - 1, EveryWidth.class.getName());
            var line = Stream.concat(java.stream(), commands.stream()).map(Text::shell).collect(Collectors.joining(" "));

            // without a terminal at standard input, the shell runs a script
            var call = ended(start(List.of("/usr/bin/script", "-qec", line + " </dev/null", "/dev/null"),
                    new Simulated("--columns", "q").settings())).exits(0).omits("Exception", "\tat ");

            var codes = Pattern.compile("(?m)^@ (\\d+ \\S+ \\d+)\r?$").matcher(call.out()).results()
                    .map(match -> match.group(1)).toList();
            assertEquals(EveryWidth.WIDTHS.stream().flatMap(width -> Stream.of("check 0", "check 2", "run 3", "retry 3",
                    "status 3", "export 0", "compare 0", "verify 2", "shell 3", "run 0", "verify 0", "run 0").map(code -> width + " " + code)).toList(),
                    codes, call::toString);
        }
    }

    @Tag("slow")
    @Nested
    class ACheckBesideResults {
        /// The suggested results file is in the current folder.
        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                id,text~1,a~2,b           | results.jsonl already exists, 0 rows pending, 0 changed
                id,text~1,x~2,b~3,c       | results.jsonl already exists, 1 row pending, 1 changed
                id,text~1,x~2,y~3,c       | results.jsonl already exists, stop: , 2 of 2
                id,text~11,a              | results.jsonl already exists, none of them
                """)
        void saysWhatARunWouldDoWithThem(String rows, String facts) throws Exception {
            csv("id,text", "1,a", "2,b");
            call(Map.of(), typed("run", "--demo")).exits(0);
            Files.writeString(file("data.csv"), rows.replace('~', '\n') + "\n");

            ended(start(Map.of(), "check", "--demo", "-i", "data.csv")).exits(0).shows(facts.split(", ")).omits("Next:");
        }
    }

    @Nested
    class AProcess {
        /// Starts a process that SIGINT ends, with options of Java.
        private Process start(Map<String, String> settings, List<String> jvm, String... args) throws IOException {
            var words = new ArrayList<>(ignoresInterrupts() ? List.of("env", "--default-signal=INT") : List.of());
            words.addAll(Given.Tool.words(jvm.toArray(String[]::new)));
            words.addAll(List.of(args));
            return ProcessTest.this.start(words, settings);
        }

        /// A process that a shell starts in the background (`&` in a script) ignores SIGINT, and so do its children.
        private static boolean ignoresInterrupts() throws IOException {
            var status = Path.of("/proc/self/status");
            return Files.exists(status) && Files.readAllLines(status).stream().anyMatch(line ->
                    line.startsWith("SigIgn:") && (Long.parseUnsignedLong(line.substring(7).strip(), 16) & 2) != 0);
        }

        private static void signal(String name, Process child) throws Exception {
            assertEquals(0, new ProcessBuilder("kill", "-" + name, "" + child.pid()).start().waitFor());
        }

        /// Rows 1 and 2 succeed, 3 to 5 run until the simulator finishes them, and the others wait for them.
        private Process startHeld(Simulated dify, String mode, String... more) throws Exception {
            csv("id,text", "1,a", "2,b", "3,[latency 10m]", "4,[latency 10m]", "5,[latency 10m]", "6,c", "7,d", "8,e");
            var child = start(dify.settings(), List.of(), typed("run", words(List.of("-c3", "--mode", mode), more)));
            until("five runs", () -> dify.count("started") == 5 && (mode.equals("blocking") || logged("run") == 5));
            return child;
        }

        /// Counts the lines without reading them, because the process may be writing the last one.
        private long logged(String event) throws IOException {
            return content("results.jsonl.log").lines().filter(line -> line.contains("\"event\":\"" + event + "\""))
                    .count();
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                signal, mode,      stops, said
                INT,    streaming, 3,     asked Dify to stop 3 runs
                HUP,    blocking,  0,     3 runs may still be active
                TERM,   blocking,  0,     3 runs may still be active
                """)
        void leavesUnfinishedRowsPendingIfInterrupted(String signal, String mode, int stops, String said)
                throws Exception {
            var dify = new Simulated();
            var child = startHeld(dify, mode, "--grace", "0.2");

            signal(signal, child);

            var call = ended(child).exits(130).says("interrupted", "2 succeeded, 6 pending", said);
            assertEquals(stops == 0, call.err().contains("may still be active"), call.err());
            assertEquals(stops, dify.count("stops"));
            assertFalse(Files.exists(file("results.jsonl.retry")));
            assertEquals("succeeded=2 pending=6", status());
            assertEquals(5, dify.count("started"), "nothing new starts");

            dify.app.finishRuns();
            call(dify.settings(), typed("run", "--mode", mode)).exits(0);
            assertEquals("succeeded=8", status());
            assertEquals(8, ids().size());
            assertEquals(8 + stops, dify.count("started"), "only stopped runs are run again");
        }

        @Tag("slow")
        @Test
        void failsIfStandardOutputCannotBeWritten() throws Exception {
            assumeTrue(Files.exists(Path.of("/dev/full")));
            rows(1);
            assertEquals(0, start(Map.of(), List.of(), "run", "--demo", "-i", input(), "-o", output()).waitFor());

            for (var last : List.of("run --demo --json", "retry --demo --json", "export -")) {
                var words = new ArrayList<>(List.of("sh", "-c", "exec \"$0\" \"$@\" >/dev/full"));
                words.addAll(java(words(List.of(last.split(" ")), "-i", input(), "-o", output())));
                ended(ProcessTest.this.start(words, Map.of())).exits(4).says("standard output");
            }
        }

        @Test
        void endsAtOnceIfInterruptedTwice() throws Exception {
            var child = startHeld(new Simulated(), "blocking", "--grace", "60");
            signal("INT", child);
            until("an answer", () -> content("child.err").contains("Ctrl-C again"));
            signal("INT", child);

            ended(child).exits(130).says("6 pending", "3 runs may still be active");
        }

        @Test
        void locksItsBatchAgainstOtherProcesses() throws Exception {
            var dify = new Simulated();
            startHeld(dify, "blocking");

            for (var command : List.of(typed("run"), typed("retry"), typed("run", "--fresh")))
                call(dify.settings(), command).exits(2).reports("results.jsonl.lock");
            assertEquals("succeeded=2 pending=6", status(), "status may look on");
            Files.delete(file("results.jsonl.lock"));
            call(dify.settings(), typed("run")).exits(2);
            assertEquals(5, dify.count("started"));
        }

        /// The copies of its log are those of another process with this id, and of a session that ended in a shell.
        @Test
        void isShownAsRunningInTheStatusUntilItEnds() throws Exception {
            var dify = new Simulated();
            var child = startHeld(dify, "blocking");
            var log = content("results.jsonl.log");
            Files.writeString(file("reused.jsonl.log"), log.replaceAll("\"started\":\"\\d{4}", "\"started\":\"2001"));
            Files.writeString(file("ended.jsonl.log"),
                    log + Json.text(new Event.StopEvent(Instant.now(), "", "", "")) + "\n");

            var shown = call(Map.of(), "status", "-o", output()).omits("Next:");
            assertTrue(shown.out().matches("(?s).*\n  running +since [^\n]* \\(process " + child.pid() + "\\)\n.*"),
                    shown.out());
            assertEquals(child.pid(), running("results.jsonl").path("process").asLong());
            assertTrue(running("reused.jsonl").isNull());
            assertTrue(running("ended.jsonl").isNull());

            child.destroyForcibly().waitFor();
            assertTrue(running("results.jsonl").isNull());
            call(Map.of(), "status", "-o", output()).shows("Next: ");
        }

        private JsonNode running(String results) throws IOException {
            return tree(call(Map.of(), "status", "--json", "-o", file(results).toString()).out()).path("running");
        }

        /// The server answers the first question only after it got that of the other, or the other has ended.
        @Tag("slow")
        @ParameterizedTest
        @CsvSource({"--shard=1/2, '', 1", "--shard=1/2, --shard=1/3, 1", "--shard=1/2, --shard=2/2, 2",
            "--shard=2/2, --shard=2/2, 1"})
        void excludesAProcessOfTheSameBatchStartedAtTheSameTime(String first, String second, int started)
                throws Exception {
            rows(12);
            var asked = new CountDownLatch(2);
            var children = new CopyOnWriteArrayList<Process>();
            try (var wire = new ServerTest.Wire(connection -> {
                while (connection.request()) {
                    if (connection.last.startsWith("GET /v1/info ")) {
                        asked.countDown();
                        while (asked.getCount() > 0 && (children.size() < 2 || children.stream().allMatch(Process::isAlive)))
                            LockSupport.parkNanos(20_000_000);
                    }
                    connection.answer(connection.last.startsWith("GET ")
                            ? "{\"mode\":\"workflow\",\"user_input_form\":[{\"paragraph\":{\"variable\":\"id\"}},"
                                    + "{\"paragraph\":{\"variable\":\"text\"}}]}"
                            : ServerTest.Events.blocking("{}").replace(ServerTest.Events.RUN, "run-" + UUID.randomUUID()));
                }
            })) {
                for (var shard : List.of(first, second)) children.add(start(settingsFor(wire.url()), List.of(),
                        typed("run", ("--mode=blocking " + shard).split(" "))));
                var codes = new ArrayList<Integer>();
                for (var child : children) codes.add(ended(child).code());

                int ended = Collections.frequency(codes, Exit.OK.code); // each of two may see the other's lock
                assertTrue(ended == started || ended == 0 && started == 1, content("child.err"));
                assertEquals(2 - ended, Collections.frequency(codes, Exit.UNUSABLE.code), content("child.err"));
                var sent = wire.requests.stream().filter(request -> request.startsWith("POST "))
                        .map(request -> request.replaceAll("(?s).*\"id\":\"(\\d+)\".*", "$1")).toList();
                var ran = (codes.getFirst() == Exit.OK.code ? first : second).replace("--shard=", "");
                if (started == 2) assertEquals(12, sent.size());
                else assertTrue(sent.stream().allMatch(id -> ran.isEmpty() || Shard.parse(ran).holds(id)), ran + sent);
            }
        }

        @Tag("slow")
        @Test
        void writesTheSameFilesInAnyLocale() throws Exception {
            csv("id,title,text", "1,İıŞ,あ😀 \"x\"", "2,TITLE,[fail]", "3,I,[flaky]");

            var turkish = List.of("-Duser.language=tr", "-Duser.country=TR");
            var child = ended(start(Map.of("LC_ALL", "C", "INITIAL_RETRY_DELAY", "10ms"), turkish, "run", "--demo", "-i", "data.csv",
                    "-o", "tr.jsonl", "--mode", "STREAMING")).exits(3);
            call(Map.of("INITIAL_RETRY_DELAY", "10ms"), typed("run", "--demo", "--mode", "streaming"));

            assertEquals(comparable("results.jsonl"), comparable("tr.jsonl"));
            assertEquals(comparable("results.jsonl.log"), comparable("tr.jsonl.log"));
            assertEquals(content("results.jsonl.retry"), content("tr.jsonl.retry"));
            for (var word : List.of("\"mode\":\"streaming\"", "\"outcome\":\"failed\""))
                assertTrue(content("tr.jsonl.log").contains(word), word);
            child.says("2 succeeded, 1 failed in ");
            var status = ended(start(Map.of("LC_ALL", "C"), turkish, "status", "-o", "tr.jsonl"));
            assertTrue(status.out().lines().anyMatch(line -> line.matches("  succeeded +2 +66\\.7 % .*")),
                    status.out());
        }

        /// As in a cron job, for which Java cannot decode words and names of files.
        @Tag("slow")
        @Test
        void sendsNoWordThatTheLocaleHasDamaged() throws Exception {
            rows(1);
            Files.writeString(file("größe.txt"), "of somebody else");
            var dify = new Simulated("--latency", "10ms");
            var settings = dify.settings("LC_ALL", "C");

            ended(start(settings, List.of(), typed("run", "--var", "tone=höflich"))).exits(2).mentions("--var", "UTF-8");
            assertEquals(0, dify.runs());
            ended(start(settings, List.of(), typed("run"))).exits(0);
        }

        /// Returns the lines of a file in a fixed order, without everything that differs from run to run.
        private List<String> comparable(String name) throws IOException {
            return content(name).lines().map(line -> line
                    .replaceAll("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID")
                    .replaceAll("difyexec-[0-9a-f]{16}-\\d+", "USER")
                    .replaceAll("\\d{4}-\\d\\d-\\d\\dT[0-9:.]+Z", "TIME").replaceAll("127\\.0\\.0\\.1:\\d+", "HOST")
                    .replaceAll("\"(elapsed_time|seconds)\":[0-9.E-]+", "$1")
                    .replaceAll("\"crc32c\":\"\\w+\"", "CHECKSUM")
                    .replaceAll("\"typed\":\\[.*?]", "TYPED").replaceAll("\"app_hash\":\"[^\"]*\"", "HASH")
                    .replaceAll("\"process\":\\{[^}]*}", "PROCESS"))
                    .sorted().toList();
        }

        @Test
        void readsRowsFromStandardInput() throws Exception {
            var child = start(Map.of(), List.of(), "run", "--demo", "-i", "-", "-o", "results.jsonl");
            feed(child, "id,text\n1,あ\n2,b\n");

            ended(child).exits(0);
            assertEquals(List.of("1", "2"), ids());
            assertEquals("あ", result("1").path("inputs").path("text").asText());
        }

        /// Java opens a file of its own under the number of a closed standard input.
        @Tag("slow")
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                command,                                code
                shell --demo -i data.csv -o r.jsonl,    0
                run --demo -i - -o r.jsonl,             2
                """)
        void takesAClosedStandardInputAsAnEmptyOne(String command, int code) throws Exception {
            rows(1);
            var results = new ArrayList<Call>();
            for (var from : List.of("<&-", "</dev/null")) {
                var words = words(List.of("bash", "-c", "exec \"$0\" \"$@\" " + from), words(java(command.split(" "))));
                results.add(ended(ProcessTest.this.start(List.of(words), Map.of())).exits(code));
            }

            assertEquals(results.getLast(), results.getFirst());
        }

        @Test
        void reportsAnUnusableTemporaryFolder() throws Exception {
            Files.createFile(file("none"));
            var child = start(Map.of(), List.of("-Djava.io.tmpdir=" + file("none")), "run", "--demo", "-i", "-", "-o",
                    "results.jsonl");
            feed(child, "");

            ended(child).exits(2).says(path("none")).hints();
        }

        /// A copy has no name from the beginning, so not even a kill leaves one.
        @Tag("slow")
        @ParameterizedTest
        @CsvSource({"KILL, -", "INT, data.xlsx"})
        void leavesNoCopyOfItsInputBehindIfKilledOrInterrupted(String signal, String input) throws Exception {
            Files.createDirectory(file("tmp"));
            Files.write(file("data.xlsx"), FormatsTest.book("s:id|s:text", "n:1|s:[slow]"));
            var child = start(Map.of(), List.of("-Djava.io.tmpdir=" + file("tmp")), "run", "--demo", "-i", input, "-o",
                    "results.jsonl", "--grace", "0.1");
            feed(child, "id,text\n1,[slow]\n");
            until("an attempt", () -> logged("attempt") > 0);

            signal(signal, child);
            ended(child);

            try (var left = Files.list(file("tmp"))) {
                assertEquals(List.of(), left.filter(path -> path.toString().contains("difyexec")).toList());
            }
        }

        @Test
        void readsTheDotEnvFileButPrefersTheEnvironment() throws Exception {
            var dify = new Simulated();
            var ours = SimulatedDify.of();
            dify.server.add(KEY, ours);
            rows(1);
            Files.writeString(file(".env"), """
                    # mine
                    DIFY_API_KEY=%s
                    DIFY_API_BASE_URL=http://127.0.0.1:1/v1
                    TIMEOUT=abc
                    """.formatted(KEY));

            var bad = ended(start(Map.of(), List.of(), typed("run"))).exits(2);
            assertTrue(bad.sentence().startsWith("difyexec: TIMEOUT in .env: "), bad.err());

            ended(start(Map.of("DIFY_API_BASE_URL", dify.server.baseUrl().toString(), "TIMEOUT", "7"), List.of(),
                    typed("run"))).exits(0);
            assertEquals(1, ours.count("started"));
        }
    }

    /// These tests need the checkout. A script replaces Java and plays JBang.
    @Nested
    class TheJBangLauncher {
        private static final String JAVA = """
                #!/bin/sh
                printf '%s\\n' "HOME=$HOME" "LC_ALL=${LC_ALL:-}" "$@"
                cache=${XDG_CACHE_HOME:-none}/difyexec
                [ ! -d "$cache" ] || flock -n "$cache"/* true || echo LOCKED
                bin=${JBANG_DIR:-$HOME/.jbang}/bin
                mkdir -p "$bin"
                printf '#!/bin/sh\\nexec jbang run %s "$@"\\n' "$REF" >"$bin/difyexec"
                for rc in .bashrc .zshrc; do
                  [ ! "$RC" ] || printf '%s\\n' '' '# Add JBang to environment' 'alias j!=jbang' "$RC" >>"$HOME/$rc"
                done
                touch -t 209901010000 "$bin/difyexec" "$HOME"/.*rc # clocks of files are coarse
                """;

        /// Runs the launcher with an installed JBang, a home folder and these variables.
        private Call launch(Map<String, String> settings, String... args) throws Exception {
            var environment = new HashMap<>(Map.of("HOME", path("home")));
            environment.putAll(settings);
            return launch(environment, file("home/.cache"), args);
        }

        /// Runs the launcher with an installed JBang and only these variables, perhaps without a home.
        private Call launch(Map<String, String> settings, Path cache, String... args) throws Exception {
            install(cache, JAVA);
            var environment = new HashMap<>(Map.of("PATH", "/usr/bin:/bin", "JAVA_HOME", file("jdk").toString()));
            environment.putAll(settings);
            return ran(List.of(words(List.of(launcher().toString()), args)), checkout(), environment, "");
        }

        /// Installs JBang's jar in that cache, and a JDK whose programs are this script.
        private void install(Path cache, String script) throws IOException {
            var jar = cache.resolve("difyexec/jbang-" + version() + "/lib/jbang-cli-" + version() + ".jar");
            Files.createDirectories(jar.getParent());
            if (!Files.exists(jar)) Files.createFile(jar);
            var java = Files.createDirectories(file("jdk/bin")).resolve("java");
            for (var program : List.of(java, java.resolveSibling("javac"))) executable(program, script);
            Files.writeString(file("jdk/release"), "JAVA_VERSION=\"25.0.1\"\n");
        }

        /// Runs a program with no other variables, and returns what it printed.
        private static Call ran(List<String> words, Path directory, Map<String, String> environment, String stdin)
                throws Exception {
            var builder = new ProcessBuilder(words).directory(directory.toFile()).redirectErrorStream(true);
            builder.environment().clear();
            builder.environment().putAll(environment);
            var process = builder.start();
            try (var in = process.getOutputStream()) {
                in.write(stdin.getBytes(UTF_8));
            } catch (IOException _) {
                // It ended without reading.
            }
            var said = new String(process.getInputStream().readAllBytes(), UTF_8);
            return new Call(process.waitFor(), said, said);
        }

        private static Path launcher() {
            return checkout().resolve("jbang");
        }

        /// Returns JBang's version, as the launcher names it.
        private static String version() throws IOException {
            return Files.readAllLines(launcher()).stream().filter(line -> line.startsWith("v=")).findFirst()
                    .orElseThrow().substring("v=".length());
        }

        @ParameterizedTest
        @ValueSource(strings = {"check -i data.csv", "status", "run --demo -i data.csv", "export -i data.csv"})
        void namesTheScriptIfOnlyACommandOfItIsTyped(String typed) throws Exception {
            var call = launch(Map.of(), typed.split(" ")).exits(2);

            assertEquals(1, call.out().lines().count(), call.out());
            call.shows(launcher() + " DifyExec.java " + typed);
        }

        /// `HERE` is the checkout.
        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '~', useHeadersInDisplayName = true, textBlock = """
                ref                              | typed                            | script
                '/a b/DifyExec.java'             | --name difyexec DifyExec.java    | /a b/DifyExec.java
                difyexec                         | difyexec                         | HERE/DifyExec.java
                difyexec@HERE/jbang-catalog.json | difyexec@HERE/jbang-catalog.json | HERE/DifyExec.java
                """)
        void installsACommandThatNeedsNoJBangOnThePath(String ref, String typed, String script) throws Exception {
            var other = "#!/bin/sh\nexec jbang run other \"$@\"\n";
            Files.createDirectories(file("home/.jbang/bin"));
            Files.writeString(file("home/.jbang/bin/other"), other);
            var here = checkout().toString();
            var words = ("app install " + typed.replace("HERE", here)).split(" ");

            launch(Map.of("REF", ref.replace("HERE", here)), words).exits(0)
                    .shows("\n-Duser.home=" + file("home") + "\n");

            assertEquals(other, content("home/.jbang/bin/other"));
            assertEquals("#!/bin/sh\nDIFYEXEC_APP=\"$0\" exec '" + launcher() + "' run '"
                    + script.replace("HERE", here) + "' \"$@\"\n", content("home/.jbang/bin/difyexec"));
        }

        /// JBang prepares both shells, with an alias to itself.
        @ParameterizedTest
        @ValueSource(strings = {"bash", "zsh"})
        void changesOnlyTheFileOfTheShellInUse(String shell) throws Exception {
            var path = "export PATH=\"$HOME/.jbang/bin:$PATH\"";
            var other = shell.equals("bash") ? "zsh" : "bash";
            Files.createDirectories(file("home"));
            Files.writeString(file("home/." + other + "rc"), "# mine\n");

            var settings = Map.of("REF", "difyexec", "RC", path, "SHELL", "/bin/" + shell);
            launch(settings, "app", "install", "difyexec").exits(0);

            assertEquals("\n# Add JBang to environment\n" + path + "\n", content("home/." + shell + "rc"));
            assertEquals("# mine\n", content("home/." + other + "rc"));
        }

        /// Without the option, Java would take the home from the system and find no command there.
        @Test
        void uninstallsACommandFromTheHomeFolderInTheEnvironment() throws Exception {
            launch(Map.of(), "app", "uninstall", "difyexec").shows("\n-Duser.home=" + file("home") + "\n");
        }

        /// The class archive exists, and the script may have changed.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                command,       alone
                DifyExec.java, true
                edit,          false
                """)
        void buildsAScriptInOneProcessAtATime(String command, boolean alone) throws Exception {
            assumeTrue(Files.exists(Path.of("/usr/bin/flock")));
            var home = file("cache/difyexec/jbang-" + version());
            Files.createDirectories(home);
            Files.createFile(home.resolve("jdk-25.0.1.jsa"));

            var settings = Map.of("HOME", path("home"), "XDG_CACHE_HOME", path("cache"));
            var call = launch(settings, file("cache"), command).shows("\n-XX:SharedArchiveFile=");
            assertEquals(alone, call.out().contains("LOCKED"), call.out());
        }

        private List<String> starting = List.of(); // words before the launcher

        /// Starts the script with a Java that records how it was called.
        private List<String> starts(Path script, String... args) throws Exception {
            install(file("cache"), """
                    #!/bin/sh
                    case " $* " in
                      *' dev.jbang.Main '*)
                        echo jbang >>'%1$s'
                        [ -f '%3$s' ] || printf 'PK\\005\\006jar' >'%3$s'
                        for last do :; done
                        echo '%2$s -classpath %3$s Tool' "$last"
                        exit 255 ;;
                      *AOTCacheOutput*) exit 1 ;;
                      *) echo "tool: $*" | sed 's/.*Tool/tool/' >>'%1$s'; exit 3 ;;
                    esac
                    """.formatted(file("calls"), file("jdk/bin/java"), file("tool.jar")));
            Files.deleteIfExists(file("calls"));
            var words = new ArrayList<>(starting);
            words.addAll(List.of(words(List.of(launcher().toString(), script.toString()), args)));
            ran(words, folder, Map.of("PATH", "/usr/bin:/bin", "JAVA_HOME", file("jdk").toString(), "HOME",
                    file("home").toString(), "XDG_CACHE_HOME", file("cache").toString()), "").exits(3);
            return Files.readAllLines(file("calls"));
        }

        @Test
        void callsJBangOnlyIfTheScriptHasChangedOrAJarIsMissing() throws Exception {
            Files.createDirectory(file("a folder"));
            var script = Files.writeString(file("a folder/DifyExec.java"), "one");

            assertEquals(List.of("jbang", "tool a  b *"), starts(script, "a  b", "*"));
            assertEquals(List.of("tool c "), starts(script, "c", ""));

            Files.writeString(script, "two");
            assertEquals(List.of("jbang", "tool"), starts(script));
            assertEquals(List.of("tool"), starts(script));

            Files.delete(file("tool.jar"));
            assertEquals(List.of("jbang", "tool"), starts(script));
        }

        /// JBang and Maven take a jar as whole that is there.
        @ParameterizedTest(name = "{0} bytes, known: {1}")
        @CsvSource({"0, true", "4, true", "0, false", "4, false"})
        void buildsAgainIfAJarIsTruncated(int bytes, boolean known) throws Exception {
            var script = Files.writeString(file("DifyExec.java"), "one");
            assertEquals(List.of("jbang", "tool"), starts(script));
            if (!known) Files.writeString(script, "two");

            Files.write(file("tool.jar"), Arrays.copyOf(Files.readAllBytes(file("tool.jar")), bytes - bytes / 4));

            assertEquals(List.of("jbang", "jbang", "tool"), starts(script));
            assertEquals(List.of("tool"), starts(script));
        }

        @Test
        void reportsThatTheCurrentFolderWasDeleted() throws Exception {
            install(file("cache"), JAVA);
            var words = List.of("sh", "-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" --version",
                    launcher().toString());

            var call = ran(words, folder, Map.of("PATH", "/usr/bin:/bin", "HOME", path("home"), "JAVA_HOME",
                    path("jdk"), "XDG_CACHE_HOME", path("cache")), "").exits(2);

            assertTrue(call.out().endsWith("jbang: the current folder was deleted: change to another one.\n"),
                    call.out());
        }

        @Test
        void passesAllArgumentsToAJBangOnThePath() throws Exception {
            executable(Files.createDirectories(file("bin")).resolve("jbang"), "#!/bin/sh\n#\nprintf '<%s>' \"$@\"\n");

            var call = launch(Map.of("PATH", file("bin") + ":/usr/bin:/bin"), "DifyExec.java", "a  b", "");

            assertEquals("<DifyExec.java><a  b><>", call.out());
        }

        /// A wrapper that calls the launcher again comes back until the launcher stops asking it.
        @Test
        void stopsCallingAJBangWrapperThatCallsItBack() throws Exception {
            executable(Files.createDirectories(file("bin")).resolve("jbang"),
                    "#!/bin/sh\n#\necho round\nexec '" + launcher() + "' \"$@\"\n");

            var call = launch(Map.of("PATH", file("bin") + ":/usr/bin:/bin"), "version");

            assertEquals(3, call.out().lines().filter("round"::equals).count(), call.out());
            call.shows("\ndev.jbang.Main\nversion\n");
        }

        @ParameterizedTest
        @ValueSource(strings = {"C", "no_SUCH.UTF-8"})
        void startsJavaInAUtf8Locale(String locale) throws Exception {
            var call = launch(Map.of("LC_ALL", locale, "REF", "x"), "version");

            assertTrue(call.out().contains("\nLC_ALL=C.UTF-8\n") || call.out().contains("\nLC_ALL=en_US.UTF-8\n"),
                    call.out());
        }

        /// Nothing can be kept, so JBang is asked twice: whether it can be kept, and for the command.
        @Test
        void startsTheToolEvenIfItsCacheFolderIsReadOnly() throws Exception {
            assumeTrue(new ProcessBuilder("unshare", "-m", "true").start().waitFor() == 0, "needs a mount of its own");
            var script = Files.writeString(file("DifyExec.java"), "one");
            starting = List.of("unshare", "-m", "sh", "-c",
                    "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"", path("cache"));

            assertEquals(List.of("jbang", "jbang", "tool x"), starts(script, "x"));
            assertEquals(List.of("jbang", "jbang", "tool x"), starts(script, "x"));
        }

        private static final String INSTALLER = """
                [ "$(cat)" = rows ] && printf '<%s>' "$@"
                exit 3
                """;

        /// Runs the launcher on a machine with a shell, some small programs, a curl that does `curl` unless that is
        /// empty, and perhaps a JDK. Standard input is `rows`.
        private Call launchBare(String curl, boolean jdk, String... args) throws Exception {
            var bin = Files.createDirectories(file("bin"));
            for (var program : List.of("sh", "bash", "cat", "dirname", "id", "mkdir", "readlink", "uname"))
                executable(bin.resolve(program), "#!/bin/sh\nexec " + Stream.of("/bin/", "/usr/bin/")
                        .map(folder -> folder + program).filter(path -> Files.exists(Path.of(path))).findFirst()
                        .orElseThrow() + " \"$@\"\n");
            if (!curl.isEmpty()) {
                Files.writeString(file("installer"), INSTALLER);
                executable(bin.resolve("curl"), "#!/bin/sh\necho \"$@\" >>'" + file("fetched") + "'\n" + curl);
            }
            var copy = executable(file("jbang"), Files.readString(launcher())
                    .replaceAll("(?<= )/(?=usr/lib/jvm|opt/|Library/)", file("no") + "/"));
            var environment = new HashMap<>(Map.of("PATH", bin.toString(), "HOME", file("home").toString()));
            if (jdk) environment.put("JAVA_HOME", System.getProperty("java.home"));
            return ran(List.of(words(List.of(copy.toString()), args)), folder, environment, "rows");
        }

        @ParameterizedTest(name = "a JDK is there: {0}")
        @ValueSource(booleans = {true, false})
        void runsJBangsInstallerIfJBangAndMavenAreMissing(boolean jdk) throws Exception {
            var curl = "cat '" + file("installer") + "'\n";

            var call = launchBare(curl, jdk, "DifyExec.java", "a  b", "it's", "", "-i", "-");

            assertEquals("""
                    jbang: fetching JBang by JBang's own installer, https://sh.jbang.dev; it brings a JDK, too
                    <DifyExec.java><a  b><it's><><-i><->""", call.out());
            call.exits(3);
            assertEquals("-fLs https://sh.jbang.dev\n", content("fetched"));
        }

        @Test
        void usesAnInstalledJBangWithoutDownloading() throws Exception {
            executable(Files.createDirectories(file("home/.jbang/bin")).resolve("jbang"),
                    "#!/bin/sh\n#\necho \"left: $*\"\n");

            var call = launchBare("exit 1\n", false, "DifyExec.java", "--help");

            assertEquals("left: DifyExec.java --help\n", call.out());
            assertEquals("", content("fetched"));
        }

        @Test
        void reportsThatTheInstallerCannotBeDownloaded() throws Exception {
            var call = launchBare("echo half\nexit 28\n", false, "DifyExec.java").exits(2);
            assertTrue(call.out().endsWith("\njbang: https://sh.jbang.dev cannot be reached: check the network, "
                    + "or install JBang.\n"), call.out());
        }

        @Test
        void listsThePackagesToInstallIfThereIsNoDownloader() throws Exception {
            var call = launchBare("", false, "DifyExec.java").exits(2);
            assertEquals(1, call.out().lines().count(), call.out());
            for (var words : List.of("openjdk-25-jdk-headless and maven (Debian)",
                    "java-25-openjdk-devel and maven (Fedora)", "openjdk and maven (macOS, brew)"))
                call.shows(words);
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "/"})
        void usesAPrivateTemporaryFolderIfTheHomeVariableIsNotSet(String home) throws Exception {
            boolean atTheRoot = Files.exists(Path.of("/.cache"));
            var own = file("difyexec-" + Files.getAttribute(folder, "unix:uid"));
            var settings = Map.of("HOME", home, "TMPDIR", folder.toString());

            var refused = launch(settings, file("elsewhere"), "app", "install", "DifyExec.java").exits(2);
            assertEquals("jbang: HOME is not set, and that is where commands are installed: set it.\n", refused.out());
            assertFalse(Files.exists(own));

            var call = launch(settings, own.resolve(".cache"), "version").exits(0);
            assertTrue(call.out().startsWith("HOME=" + own + "\n"), call.out());
            assertEquals(atTheRoot, Files.exists(Path.of("/.cache")));

            Files.move(own, file("foreign"));
            Files.createSymbolicLink(own, file("foreign"));
            var foreign = launch(settings, file("elsewhere"), "version").exits(2);
            assertEquals("jbang: HOME is not set, and " + own + " cannot stand in: set HOME.\n", foreign.out());
        }
    }
}

/// Runs commands in this terminal at several widths. Prints the exit code of each.
final class EveryWidth {
    static final List<Integer> WIDTHS = List.of(20, 40, 72, 73, 80);
    private static final String SCRIPT = "failures\nshow 1\nshow [fail]\nset [fail] text=other\nedits\nretry [fail]\n";

    public static void main(String... commands) throws Exception {
        DifyExec.setProperties();
        for (int width : WIDTHS) {
            new ProcessBuilder("stty", "-F", "/dev/tty", "cols", "" + width).inheritIO().start().waitFor();
            for (var command : commands) {
                var words = command.replace("WIDTH", "" + width).split(" ");
                System.setIn(new ByteArrayInputStream(SCRIPT.getBytes(UTF_8)));
                int code = commandLine(new Env(System::getenv, "difyexec", Path.of("")), words).execute(words);
                IO.println("\n@ " + width + " " + words[0] + " " + code);
            }
        }
    }
}
