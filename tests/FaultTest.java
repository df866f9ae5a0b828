package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.sun.net.httpserver.*;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Faults of the machine: a full disk, a stopped and a killed process, Ctrl-C in a terminal, torn
/// and deleted files. After each, no row is lost and none is paid for twice.
@Tag("slow")
@Execution(ExecutionMode.SAME_THREAD)
final class FaultTest extends WholeCommand {
    private String[] quiet(String... more) {
        return typed("run", more);
    }

    /// Without an unfinished last line, which a process may be writing.
    @Override
    List<JsonNode> read(String name) throws IOException {
        var text = content(name).replace("\uFEFF", "");
        var lines = new ArrayList<JsonNode>();
        for (var line : text.substring(0, text.lastIndexOf('\n') + 1).lines().toList()) lines.add(tree(line));
        return lines;
    }

    private static void hasPaidOnceFor(int rows, Simulated dify) {
        assertEquals(rows, dify.count("succeeded"), "runs that succeeded");
        assertEquals(0, dify.count("twice"), "runs beside another one that counts");
    }

    private void rows(int count, IntFunction<String> text) throws IOException {
        rows("id,text", count, text);
    }

    private void rows(String header, int count, IntFunction<String> text) throws IOException {
        csv(words(List.of(header), IntStream.rangeClosed(1, count).mapToObj(id -> id + "," + text.apply(id))
                .toArray(String[]::new)));
    }

    private static Set<String> oneTo(int count) {
        return IntStream.rangeClosed(1, count).mapToObj(String::valueOf).collect(Collectors.toSet());
    }

    private static void hasEachOnce(int rows, List<JsonNode> results) {
        assertEquals(rows, results.size());
        assertEquals(oneTo(rows), results.stream().map(line -> line.path("id").asText()).collect(Collectors.toSet()));
    }

    private static int shell(String... words) throws Exception {
        var process = new ProcessBuilder(words).redirectErrorStream(true)
                .redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
        return process.waitFor();
    }

    private static boolean has(String... words) throws Exception {
        try {
            return shell(words) == 0;
        } catch (IOException _) {
            return false; // the command is missing
        }
    }

    private static void say(HttpExchange exchange, int status, String json) throws IOException {
        exchange.getResponseHeaders().add("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, json.length());
        exchange.getResponseBody().write(json.getBytes(UTF_8));
    }

    // ── Disk ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class AnUnwritableDisk {
        private static final int ROWS = 20;

        /// Space for this many bytes or files, so that a different write fails each time.
        @ParameterizedTest
        @ValueSource(strings = {"nr_inodes=2", "nr_inodes=3", "nr_inodes=4", "size=4k", "size=8k", "size=12k",
                "size=16k", "size=20k", "size=28k", "size=36k"})
        void causesNeitherLostRowsNorDoublePaymentsIfFull(String room) throws Exception {
            var disk = disk(room);
            try {
                fill(disk);
            } finally {
                unmount(disk);
            }
        }

        /// Shards may come from a machine whose disk is read-only here.
        @Test
        void doesNotCauseAFreeLockToLookHeldIfReadOnly() throws Exception {
            var disk = disk("size=64k");
            var lock = Files.createFile(disk.resolve("results.1-of-2.jsonl.lock"));
            try (var _ = FileChannel.open(lock, StandardOpenOption.READ)) {
                assertEquals(0, shell("mount", "-o", "remount,ro", disk.toString()));

                assertFalse(BatchFiles.Lock.isHeld(lock));
            } finally {
                unmount(disk);
            }
        }

        private Path disk(String room) throws Exception {
            var disk = Files.createDirectory(file("disk"));
            assumeTrue(has("mount", "-t", "tmpfs", "-o", room, "tmpfs", disk.toString()), "no disk can be mounted");
            return disk;
        }

        /// The command has closed its files. A process that another test is just starting may hold the disk for a
        /// moment.
        private static void unmount(Path disk) throws Exception {
            var open = "ls -l /proc/" + ProcessHandle.current().pid() + "/fd | grep -F " + disk;
            assertEquals(1, shell("sh", "-c", open), "grep finds no open file");
            until("an idle disk", () -> shell("umount", disk.toString()) == 0);
        }

        private void fill(Path disk) throws Exception {
            var dify = new Simulated("--latency", "5ms", "--jitter", "20ms");
            // Rows that fail at first write to .retry. The three that run first are among them, so .retry takes a place
            // before the results do.
            rows(ROWS, id -> (id <= 3 || id % 7 == 2 ? "[fail] " : "") + "x".repeat(37 * id));
            String[] args = {"run", "-i", input(), "-o", disk.resolve("results.jsonl").toString(), "-c", "3", "--mode",
                "blocking", "--settle", "300ms", "--progress", "off", "--retry-failed-runs", "never"};

            var full = call(dify.settings(), args);

            assertEquals(dify.count("started") > 0 ? 4 : 2, full.code(), full.err());
            full.says("cannot write");
            var kept = read("disk/results.jsonl").stream().map(line -> line.path("id").asText())
                    .collect(Collectors.toSet());
            assertTrue(kept.size() >= count("succeeded", full), full::err); // the log may not have room for the rest
            assertEquals(kept.size() < ROWS, full.err().contains("Next: difyexec"), full::err);
            for (var line : read("disk/results.jsonl.log"))
                if (line.path("event").asText().equals("end") && line.path("outcome").asText().equals("succeeded"))
                    assertTrue(kept.contains(line.path("id").asText()), line::toString);

            assertEquals(0, shell("mount", "-o", "remount,size=10m,nr_inodes=100", disk.toString()));
            var more = call(dify.settings(), args);
            assertTrue(Set.of(0, 3).contains(more.code()), more.err());
            if (more.code() == 3) more = call(dify.settings(), args); // rows that failed only now
            more.exits(0);

            hasEachOnce(ROWS, read("disk/results.jsonl"));
            hasPaidOnceFor(ROWS, dify);
            assertFalse(Files.exists(disk.resolve("results.jsonl.retry")));
        }
    }

    /// The number of rows in the summary.
    private static int count(String outcome, Call call) {
        var count = Pattern.compile("(\\d+) " + outcome).matcher(call.err());
        return count.find() ? Integer.parseInt(count.group(1)) : 0;
    }

    @Nested
    class ALimitOfOpenFiles {
        /// Java itself needs about 30 of them, and its archives of classes some more.
        @ParameterizedTest
        @CsvSource({"48, 20, 2", "80, 200, 2", "120, 20, 0"})
        void endsTheSessionBeforeAnyRunIfItIsTooLow(int limit, int concurrency, int code) throws Exception {
            var dify = new Simulated("--latency", "5ms");
            rows(40);
            var words = words(List.of("bash", "-c", "ulimit -n " + limit + "; exec \"$0\" \"$@\""),
                    words(java(quiet("-c", "" + concurrency, "--mode", "blocking"))));

            var call = ended(start(List.of(words), dify.settings())).exits(code);

            assertEquals(code == 0 ? 40 : 0, dify.count("started"));
            if (code != 0) call.reports("files").hints("ulimit -n");
        }
    }

    @Nested
    class DamagedFiles {
        private void cutLastLine(String name) throws IOException {
            var file = file(name);
            var bytes = Files.readAllBytes(file);
            int start = bytes.length - 1;
            while (bytes[start - 1] != '\n') start--;
            Files.write(file, Arrays.copyOf(bytes, (start + bytes.length) / 2));
        }

        @Test
        void aTornLastLineIsRepairedAndItsRowRecovered() throws Exception {
            var dify = new Simulated("--latency", "5ms");
            rows(5);
            call(dify.settings(), quiet("-c", "1", "--mode", "blocking")).exits(0);
            var whole = results().subList(0, 4);
            cutLastLine("results.jsonl");
            cutLastLine("results.jsonl.log");

            call(dify.settings(), quiet("--mode", "blocking")).exits(0);
            assertEquals(whole, results().subList(0, 4));
            hasEachOnce(5, results());
            assertEquals(Set.of("results.jsonl", "results.jsonl.log"), events("torn").stream()
                    .map(line -> line.path("file").asText()).collect(Collectors.toSet()));
            assertEquals(5, dify.count("started"));
        }

        /// A file may have a kilobyte here, so the log, which is longer, cannot grow.
        @Test
        void aTornLogThatCannotBeRepairedIsRejectedByFileName() throws Exception {
            var dify = new Simulated("--latency", "5ms");
            rows(10);
            // another process, because this one would seem to run the batch still
            ended(start(dify.settings(), quiet())).exits(0);
            cutLastLine("results.jsonl.log");

            var words = words(List.of("bash", "-c", "ulimit -f 1; exec \"$0\" \"$@\""), words(java(quiet())));

            ended(start(List.of(words), dify.settings())).exits(2).reports("results.jsonl.log: File too large");
        }
    }

    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class LostResults {
        private static final int ROWS = 12;

        private Simulated finished(String app, String mode) throws Exception {
            var dify = new Simulated("--app", app, "--dify", "1.16.1", "--latency", "5ms");
            rows(header(app), ROWS, id -> "text " + id);
            call(dify.settings(), quiet("--mode", mode)).exits(0);
            return dify;
        }

        /// Returns how many results are left. A last line without a line break is torn, even if it can be read.
        private int damage(String how) throws IOException {
            var file = file("results.jsonl");
            var whole = Files.readAllBytes(file);
            switch (how) {
                case "deleted" -> Files.delete(file);
                case "halved" -> Files.write(file, Arrays.copyOf(whole, whole.length / 2));
                case "older" -> Files.write(file, Files.readString(file).lines().limit(4)
                        .collect(Collectors.joining("\n", "", "\n")).getBytes(UTF_8));
                default -> throw new AssertionError(how);
            }
            return how.equals("deleted") ? 0 : (int) Files.readString(file).chars().filter(c -> c == '\n').count();
        }

        @ParameterizedTest(name = "{2} of a {0}, {1}")
        @CsvSource({"workflow, blocking, deleted", "workflow, streaming, halved", "workflow, blocking, older",
            "chatflow, blocking, halved", "chatflow, streaming, deleted", "chatflow, streaming, older",
            "workflow, streaming, older", "chatflow, blocking, deleted"})
        void areRecoveredFromDifyWithoutRunningRowsAgain(String app, String mode, String how) throws Exception {
            var dify = finished(app, mode);
            int left = damage(how);

            var call = call(dify.settings(), quiet("--mode", mode)).exits(0);
            hasEachOnce(ROWS, results());
            assertEquals(ROWS, dify.count("started"));
            assertEquals(1, call.err().lines()
                    .filter(line -> line.contains(ROWS - left + " results recovered")).count(), call.err());
        }

        @ParameterizedTest(name = "{2} of a {0}, {1}")
        @CsvSource({"workflow, blocking, deleted", "chatflow, streaming, halved"})
        void areRecoveredEvenIfTheToolIsKilledMeanwhile(String app, String mode, String how) throws Exception {
            var dify = finished(app, mode);
            int left = damage(how);
            var child = start(dify.settings(), quiet("--mode", mode, "-c", "1"));
            until("a result", () -> results().size() > left || !child.isAlive());
            child.destroyForcibly().waitFor();

            call(dify.settings(), quiet("--mode", mode)).exits(0);
            hasEachOnce(ROWS, results());
            assertEquals(ROWS, dify.count("started"));
        }

        @ParameterizedTest(name = "{2} of a {0}, {1}")
        @CsvSource({"workflow, blocking, deleted", "workflow, streaming, halved", "chatflow, blocking, older",
            "chatflow, streaming, deleted"})
        void stayUnknownIfDifyHasDeletedTheirRuns(String app, String mode, String how) throws Exception {
            var dify = finished(app, mode);
            int lost = ROWS - damage(how);
            var restored = SimulatedDify.of("--app", app, "--dify", "1.16.1"); // the same app, but without its runs
            dify.server.add(KEY, restored);

            for (var limit : List.of("2", "100", "100"))
                call(dify.settings(), quiet("--mode", mode, "--limit", limit, "--settle", "1s", "--timeout", "1s"))
                        .exits(3);

            assertEquals(0, restored.count("started"), "nothing is sent again");
            assertEquals(ROWS - lost, results().size());
            var unknown = events("end").stream().filter(end -> end.path("outcome").asText().equals("unknown")).toList();
            assertEquals(lost, unknown.stream().map(end -> end.path("id")).distinct().count());
            assertTrue(unknown.getFirst().path("error").asText().contains("lack its line"), unknown.getFirst()::toString);
        }
    }

    // ── Streams ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class AServerFault {
        /// Rows 4 to 6 meet the fault, with `!` at each start. They come last because a stream that is sent later and
        /// starts would show that a missing run left the queue, so that its row is sent again. After its server is
        /// killed, a blocking run stays `running` for ever; a streamed one continues in its worker.
        @ParameterizedTest(name = "[{1}] of {0}, {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                version, fault,          mode,      unknown
                1.9.2,   false-fail!,    streaming, 0
                1.9.2,   false-fail!,    blocking,  0
                1.9.2,   other-end!,     streaming, 0
                1.9.2,   error-first!,   streaming, 0
                1.14.2,  false-fail!,    streaming, 0
                1.14.2,  false-fail!,    blocking,  0
                1.14.2,  other-end!,     streaming, 0
                1.14.2,  error-first!,   streaming, 0
                1.16.0,  broken,         streaming, 0
                1.16.0,  broken-running, streaming, 0
                1.16.0,  broken-absent,  streaming, 3
                1.16.0,  worker-ended,   streaming, 0
                1.16.0,  drop-after,     streaming, 0
                1.16.0,  drop-after,     blocking,  0
                1.16.0,  kill,           streaming, 0
                1.16.0,  kill,           blocking,  3
                """)
        void causesNeitherDoublePaymentsNorMixedUpResults(String version, String fault, String mode, int unknown)
                throws Exception {
            var dify = new Simulated("--dify", version, "--latency", "200ms", "--silence", "1s");
            rows(6, id -> id > 3 ? "[" + fault + "]" : "[queue 500ms]");

            call(dify.settings(), quiet("-c", "4", "--mode", mode, "--settle", "10s", "--timeout", "8s"))
                    .exits(unknown == 0 ? 0 : 3);
            assertEquals(6 - unknown, results().size());
            for (var line : results()) assertEquals(line.path("id").asText(), line.at("/outputs/row_id").asText());
            hasPaidOnceFor(6 - unknown, dify);
            assertEquals(unknown, events("end").stream()
                    .filter(end -> end.path("outcome").asText().equals("unknown")).count());
        }
    }

    // ── Processes ───────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ASuspendedProcess {
        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void finishesEachRowOnceAfterASuspensionBeyondTheTimeout(String mode) throws Exception {
            var dify = new Simulated("--latency", "1s");
            rows(6);
            var child = start(dify.settings(), quiet("-c", "3", "--mode", mode, "--timeout", "2s", "--settle", "30s"));
            until("three runs", () -> dify.count("started") >= 3);

            assertEquals(0, shell("kill", "-STOP", "" + child.pid()));
            assertFalse(child.waitFor(3, TimeUnit.SECONDS));
            assertEquals(0, shell("kill", "-CONT", "" + child.pid()));

            ended(child).exits(0);
            hasEachOnce(6, results());
            hasPaidOnceFor(6, dify);
        }
    }

    @Nested
    class TwoAppsWithTheSameName {
        private static final String OTHER_KEY = "app-of-another-app";
        private SimulatedDify other;

        /// Kills the tool when rows 1 to 3 have succeeded and 4 to 9 are in flight; 10 and 11 were not sent. A second
        /// app of the same name has the key [#OTHER_KEY].
        private Simulated killed(String app, String mode) throws Exception {
            var dify = new Simulated("--latency", "100ms", "--app", app);
            other = SimulatedDify.of("--latency", "100ms", "--app", app);
            dify.server.add(OTHER_KEY, other);
            rows(header(app), 11, id -> id > 3 ? "[latency 3s]" : "text");
            var child = start(dify.settings(), quiet("-c", "6", "--mode", mode));
            until("six in flight", () -> dify.count("succeeded") == 3
                    && dify.count("started") == 9 && results().size() == 3);
            child.destroyForcibly().waitFor();
            return dify;
        }

        private List<Integer> started(Simulated dify) {
            return List.of(dify.count("started"), other.count("started"));
        }

        @ParameterizedTest
        @CsvSource({"workflow, blocking", "workflow, streaming", "chatflow, blocking", "chatflow, streaming"})
        void areDistinguishedByTheRunsOfTheBatch(String app, String mode) throws Exception {
            var dify = killed(app, mode);
            var first = events("session").getLast().path("app_hash").asText();

            var settings = dify.settings("DIFY_API_KEY", OTHER_KEY);
            call(settings, quiet("--mode", mode)).exits(2).hints("--fresh");
            call(settings, "verify", "-o", output()).exits(2).hints("--fresh");
            assertEquals(List.of(9, 0), started(dify));

            dify.app.rename("another name");
            call(dify.settings("DIFY_API_KEY", "app-second-key"), quiet("--mode", mode)).exits(0);
            hasEachOnce(11, results());
            hasPaidOnceFor(11, dify);
            var second = events("session").getLast().path("app_hash").asText();
            assertTrue(second.matches("[0-9a-f]{16}-[0-9a-f]{16}") && !second.equals(first), second);
            assertEquals(0, started(dify).getLast());
        }
    }

    // ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AResponseOfAHundredMegabytes {
        private final List<String> sent = new CopyOnWriteArrayList<>();
        private String mode;

        /// A Dify whose response to row 3 has a hundred megabytes, and to every other row one.
        private void answer(HttpExchange exchange) throws IOException {
            var path = exchange.getRequestURI().getPath();
            exchange.getResponseHeaders().set("X-Version", "1.14.2");
            if (path.startsWith("/v1/workflows/run")) run(exchange, path.replaceFirst("/v1/workflows/run(/run-)?", ""));
            else say(exchange, 200, path.equals("/v1/info") ? "{\"name\":\"a\",\"mode\":\"workflow\"}"
                    : json("{'user_input_form':[{'paragraph':{'variable':'id'}},{'paragraph':{'variable':'text'}}]}"));
        }

        /// Answers a request to run a workflow, or to read a stored run.
        private void run(HttpExchange exchange, String stored) throws IOException {
            var request = new String(exchange.getRequestBody().readAllBytes(), UTF_8);
            var id = stored.isEmpty() ? tree(request).at("/inputs/id").asText() : stored;
            if (stored.isEmpty()) sent.add(id);
            var ends = response(id, !stored.isEmpty()).split("TEXT");
            int megabytes = id.equals("3") ? 100 : 1;
            boolean isStream = ends[0].startsWith("data:");
            exchange.getResponseHeaders().set("Content-Type", isStream ? "text/event-stream" : "application/json");
            exchange.sendResponseHeaders(200, ends[0].length() + (long) (megabytes << 20) + ends[1].length());
            var out = exchange.getResponseBody();
            out.write(ends[0].getBytes(UTF_8));
            for (int i = 0; i < megabytes; i++) out.write("x".repeat(1 << 20).getBytes(UTF_8));
            out.write(ends[1].getBytes(UTF_8));
        }

        private String response(String id, boolean isStored) {
            var data = json("{'id':'run-%s','workflow_id':'w','status':'succeeded','outputs':{'text':'TEXT'},"
                    + "'error':null,'elapsed_time':1,'total_tokens':1,'total_steps':1}", id);
            if (isStored) return data;
            if (mode.equals("blocking")) return json("{'workflow_run_id':'run-%s','data':%s}", id, data);
            return json("data: {'event':'workflow_started','workflow_run_id':'run-%1$s'}\n\n"
                    + "data: {'event':'workflow_finished','workflow_run_id':'run-%1$s','data':%2$s}\n\n", id, data);
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void leavesOnlyItsRowUnknownWhileTheBatchContinues(String mode) throws Exception {
            this.mode = mode;
            rows(12);
            var settings = settingsFor(serve(this::answer), "JDK_JAVA_OPTIONS", "-Xmx64m");

            ended(start(settings, quiet("-c", "4", "--mode", mode, "--retry-failed-runs", "always"))).exits(3);
            assertEquals(List.of("3"), Files.readAllLines(file("results.jsonl.retry")));
            assertEquals(11, results().size());
            assertEquals(oneTo(12), Set.copyOf(sent));
            assertEquals(12, sent.size(), "each run was paid for once");
            var end = events("end").stream().filter(line -> line.path("id").asText().equals("3")).toList();
            assertEquals(List.of("unknown"), end.stream().map(line -> line.path("outcome").asText()).toList());
            assertTrue(end.getFirst().path("error").asText().contains("available memory"), end.toString());
        }
    }

    // ── Terminal ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ASessionInATerminal {
        /// Starts a batch in a terminal of this width, with the progress shown.
        private Simulated started(int rows, int columns, String... options) throws Exception {
            var dify = new Simulated(options);
            rows(rows);
            terminal(columns, 40, dify.settings(), words(List.of("run", "-i", input(), "-o", output()),
                    "-c", "3", "--mode", "streaming"));
            return dify;
        }

        private void ctrlC() throws Exception {
            tmux("send-keys", "C-c");
        }

        private void ends(int code) throws Exception {
            until("its end", () -> Files.exists(file("code")));
            assertEquals(code + "\n", content("code"), screen());
        }

        @Test
        void showsProgressAndFinishesRunningRowsAfterCtrlC() throws Exception {
            var dify = started(9, 120, "--latency", "4s");
            until("a progress line", () -> screen().contains("0/9 (0 %) · ") && screen().contains("3 running")
                    && dify.count("started") == 3);

            ctrlC();
            until("the last run's end", () -> dify.count("succeeded") == 3);
            ends(130);

            assertEquals(3, results().size());
            assertEquals(3, dify.count("started"), "nothing new starts");
            assertEquals(0, dify.count("stops"));
            assertTrue(screen().contains("3 succeeded, 6 pending"), screen());
        }

        private List<String> progress() throws Exception {
            return screen().lines().filter(line -> line.contains(" · ")).toList();
        }

        private static boolean showsTheTimeLeft(String line) {
            return line.matches(".*\\b\\d+/40 .*\\b\\d+ failed.* left.*");
        }

        private boolean hasOneLineWithin(int columns) throws Exception {
            var seen = progress();
            return seen.size() == 1 && seen.getFirst().length() < columns && showsTheTimeLeft(seen.getFirst());
        }

        @ParameterizedTest
        @ValueSource(ints = {60, 80})
        void showsFailuresAndTheTimeLeftAtAnyWidth(int columns) throws Exception {
            started(40, columns, "--latency", "300ms", "--fail", "50%");

            until("one line with the time left", () -> hasOneLineWithin(columns));
            assertTrue(screen().replaceAll("\n *", " ").matches(".*Row \\d+ failed: .*"),
                    "above that line: " + screen());
            ends(3);
            assertEquals(List.of(), progress().stream().filter(line -> line.contains("/40 (")).toList(), screen());
        }

        @Test
        void clearsItsWideProgressLineIfTheTerminalIsNarrowed() throws Exception {
            started(40, 120, "--latency", "900ms", "--fail", "50%");
            until("a wide line", () -> progress().stream()
                    .anyMatch(line -> line.length() > 70 && showsTheTimeLeft(line)));

            tmux("resize-window", "-x", "60", "-y", "40");

            until("a narrow line alone", () -> hasOneLineWithin(60));
            ends(3);
            assertFalse(screen().contains(" left"), screen());
        }

        /// `0/9 (0 %) · elapsed 1.2 s · 3 running` would reach the edge, and the terminal's `^C` the line below.
        @Test
        void clearsItsProgressLineOfFullWidthAtCtrlC() throws Exception {
            started(9, 40, "--latency", "10m");
            until("a progress line", () -> screen().contains(" s · 3 running"));

            ctrlC();

            until("an answer", () -> screen().contains("Stopping"));
            var seen = screen(); // the line may be drawn again below the answer
            assertFalse(seen.substring(0, seen.indexOf("Stopping")).contains("0/9"), seen);
            ctrlC();
            ends(130);
        }

        @Test
        void wrapsAtWords() throws Exception {
            started(9, 60, "--latency", "10ms", "--fail", "50%");
            ends(3);
            terminal(60, 40, Map.of(), "status", "-o", "results.jsonl");
            ends(3);

            var broken = screen().lines().filter(line -> line.length() >= 60).toList();

            assertTrue(broken.stream().allMatch(line -> line.startsWith("Next")), screen());
            assertTrue(screen().contains("  active time "), screen());
        }

        @Test
        void showsTheNumberOfFailuresInRed() throws Exception {
            started(2, 120, "--latency", "10ms", "--fail", "100%");
            ends(3);

            var text = tmux("capture-pane", "-p", "-e");
            assertTrue(text.contains("\u001b[31m2 failed"), text);
        }
    }

    // ── Many look-ups ───────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ManyUnresolvedAttempts {
        private static final int OPEN = 1_000, LOOKS = 100;
        private final AtomicInteger looking = new AtomicInteger(), most = new AtomicInteger();
        private final AtomicInteger looks = new AtomicInteger();
        private final AtomicBoolean hasNew = new AtomicBoolean();
        private final CountDownLatch enough = new CountDownLatch(LOOKS);

        private void answer(HttpExchange exchange) throws IOException {
            try (exchange) {
                var path = exchange.getRequestURI().getPath();
                var body = new String(exchange.getRequestBody().readAllBytes(), UTF_8);
                exchange.getResponseHeaders().add("X-Version", "1.14.2");
                if (path.endsWith("/logs") || path.startsWith("/v1/workflows/run/")) {
                    most.accumulateAndGet(looking.incrementAndGet(), Math::max);
                    looks.incrementAndGet();
                    new CountDownLatch(1).await(10, TimeUnit.MILLISECONDS);
                    looking.decrementAndGet();
                    enough.countDown();
                    say(exchange, 200, "{\"page\":1,\"limit\":20,\"total\":0,\"has_more\":false,\"data\":[]}");
                } else if (path.endsWith("/run")) {
                    if (tree(body).at("/inputs/id").asInt() > OPEN) hasNew.set(true);
                    enough.await();
                    say(exchange, 401, "{\"code\":\"unauthorized\",\"message\":\"enough seen\",\"status\":401}");
                } else say(exchange, 200, "{\"mode\":\"workflow\","
                        + "\"user_input_form\":[{\"paragraph\":{\"variable\":\"id\"}},{\"paragraph\":{\"variable\":\"text\"}}]}");
            } catch (InterruptedException problem) {
                throw new IOException(problem);
            }
        }

        @ParameterizedTest
        @ValueSource(ints = {4, 16})
        void areLookedUpAFewAtATimeWhileNewRowsStart(int concurrency) throws Exception {
            rows(OPEN + 100);
            Files.writeString(file("results.jsonl.log"), IntStream.rangeClosed(1, OPEN)
                    .mapToObj(id -> ("{'event':'attempt','t':'2026-01-01T00:00:00Z','id':'" + id + "','n':0,'user':"
                            + "'difyexec-0123456789abcdef-" + id + "','mode':'blocking','fingerprint':''}\n")
                            .replace('\'', '"')).collect(Collectors.joining()));

            call(settingsFor(serve(this::answer)), quiet("-c", "" + concurrency, "--mode", "blocking")).exits(4);
            assertTrue(looks.get() >= LOOKS, () -> looks + " look-ups");
            assertEquals(Math.max(2, concurrency / 4), most.get(), "look-ups at a time");
            assertTrue(hasNew.get(), "a new row starts while earlier ones are looked up");
        }
    }
}
