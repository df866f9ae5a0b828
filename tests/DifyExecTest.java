///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION All tests of DifyExec; the last line is "N passed, N failed".
//SOURCES ../DifyExec.java
//SOURCES MapTest.java
//SOURCES ServerTest.java
//SOURCES CommandTest.java
//SOURCES FormTest.java
//SOURCES FaultTest.java
//SOURCES ConformanceTest.java
//SOURCES Recorded.java
//SOURCES ViewsTest.java
//SOURCES ShellTest.java
//SOURCES Simulator.java
//SOURCES SimulatedServer.java
//SOURCES SimulatedExchange.java
//SOURCES SimulatedDify.java
//SOURCES SimulatedLedger.java
//SOURCES SimulatedJob.java
//SOURCES SimulatedRun.java
//SOURCES SimulatedJson.java
//SOURCES SimulatedForm.java
//SOURCES SimulatedFiles.java
//SOURCES SimulatedGraph.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.0
//DEPS org.junit.platform:junit-platform-launcher:6.1.0
//DEPS org.wiremock:wiremock-standalone:3.13.2
//FILES golden/=golden/*
//FILES DifyExec.java=../DifyExec.java
//FILES recorded/1.9.2/=recorded/1.9.2/*.json
//FILES recorded/1.14.2/=recorded/1.14.2/*.json
//FILES recorded/1.16.0/=recorded/1.16.0/*.json
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;
import picocli.CommandLine;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Tests of all that needs no server, in the order of the file: options, engine, data, rules, readers, input, files,
/// text, settings. The engine runs with a workflow that answers as told and a clock moved by hand.
final class DifyExecTest {

    /// `-Dtest=TheJudge`, before or after the script's name, runs only the `@Nested` class of that name.
    public static void main(String... args) {
        var words = new ArrayDeque<String>();
        for (var arg : args) {
            var setting = arg.startsWith("-D") ? arg.substring(2).split("=", 2) : new String[0];
            if (setting.length == 2) System.setProperty(setting[0], setting[1]);
            else words.add(arg);
        }
        var wanted = System.getProperty("test", words.isEmpty() ? "" : words.getFirst());
        var classes = Stream.of(MapTest.class, DifyExecTest.class, ServerTest.class, CommandTest.class, FormTest.class,
                        FaultTest.class, ConformanceTest.class, ViewsTest.class, ShellTest.class)
                .flatMap(type -> wanted.isEmpty() ? Stream.of(type) : nested(type, wanted))
                .map(DiscoverySelectors::selectClass).toList();
        if (classes.isEmpty()) System.err.println("there is no @Nested class " + wanted);
        var summary = new SummaryGeneratingListener();
        LauncherFactory.create().execute(
                LauncherDiscoveryRequestBuilder.request().selectors(classes).build(), summary);
        var result = summary.getSummary();
        result.printFailuresTo(new PrintWriter(System.err, true, UTF_8), 10);
        long skipped = result.getTestsSkippedCount() + result.getTestsAbortedCount();
        IO.println(result.getTestsSucceededCount() + " passed, " + result.getTotalFailureCount() + " failed"
                + (skipped == 0 ? "" : ", " + skipped + " skipped"));
        System.exit(result.getTestsFoundCount() > 0 && result.getTotalFailureCount() == 0 ? 0 : 1);
    }

    private static Stream<Class<?>> nested(Class<?> type, String name) {
        return Stream.<Class<?>>of(type.getDeclaredClasses())
                .filter(inner -> inner.isAnnotationPresent(Nested.class) && inner.getSimpleName().equals(name));
    }

    // ── What the tests share ────────────────────────────────────────────────────────────────────────────────────────

    /// The files in `tests/golden/`: a text must equal its file, or with `-Dgolden.update=true` becomes it.
    static final class Golden {
        static void check(String name, String text) throws IOException {
            var plain = text.replace("\r\n", "\n");
            if (Boolean.getBoolean("golden.update")) Files.writeString(folder().resolve(name), plain);
            assertEquals(read(name), plain, "golden/" + name);
        }

        private static String read(String name) throws IOException {
            try (var packed = DifyExecTest.class.getResourceAsStream("/golden/" + name)) {
                return packed != null && !Boolean.getBoolean("golden.update") ? new String(packed.readAllBytes(), UTF_8)
                        : Files.readString(folder().resolve(name));
            }
        }

        /// Of the checkout: the tests were started in it, or in its `tests`.
        private static Path folder() {
            return Stream.of("tests/golden", "golden").map(Path::of).filter(Files::isDirectory).findFirst()
                    .orElseThrow(() -> new IllegalStateException("no tests/golden here: start in the checkout"));
        }
    }

    private static final Instant NOON = Instant.parse("2026-01-16T12:00:00Z");
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Access ACCESS = new Access(URI.create("http://dify.example/v1"),
            "app-test", "", Optional.empty(), Optional.empty());
    private static final Backoff BACKOFF = new Backoff(seconds(1), seconds(60), 3);

    private static Duration seconds(long seconds) {
        return Duration.ofSeconds(seconds);
    }

    /// JSON with `'` for `"`.
    private static String json(String text) {
        return text.replace('\'', '"');
    }

    private static Row row(String id) {
        return new Row(0, 2, id, new LinkedHashMap<>(Map.of("id", id)));
    }

    private static Attempt attempt(Mode mode, Tries tries) {
        return new Attempt(1, row("a"), tries, "difyexec-0123456789abcdef-1", mode, row("a").hash(), NOON);
    }

    private static Attempt attempt(int failed, int throttled) {
        return attempt(Mode.BLOCKING, new Tries(failed, throttled));
    }

    private static RunRef run(String id) {
        return new RunRef(id, "task-of-" + id);
    }

    private static Seen.Ran ran(String id, RunStatus status, String error) {
        return new Seen.Ran(run(id), status, "{\"answer\":\"yes\"}".getBytes(UTF_8), error, "workflow-1",
                new Usage(1.5, 10, 3, Optional.empty(), ""));
    }

    private static Seen.Ran succeeded(String id) {
        return ran(id, RunStatus.SUCCEEDED, "");
    }

    private static Seen.Ran failed(String error) {
        return ran("run-failed", RunStatus.FAILED, error);
    }

    private static Seen.Cut cut(Symptom symptom) {
        return new Seen.Cut(Optional.empty(), symptom, "the line went dead");
    }

    private static Seen.Cut cut(Symptom symptom, RunRef run) {
        return new Seen.Cut(Optional.of(run), symptom, "the line went dead");
    }

    private static Seen.Refused http(int status, String code, String message) {
        return Seen.Refused.http(status, true, code, message, Optional.empty());
    }

    private static Seen.Refused html(int status) {
        return Seen.Refused.http(status, false, "", "a page of a proxy", Optional.empty());
    }

    private static Seen.Refused later(int status, Duration asked) {
        return Seen.Refused.http(status, false, "", "slow down", Optional.of(asked));
    }

    private static String local(String pattern, Instant time) {
        return DateTimeFormatter.ofPattern(pattern).withZone(ZoneId.systemDefault()).format(time);
    }

    private static final Seen.Refused THROTTLED = http(400, "invalid_param",
            "Too many requests. Please try again later. The current maximum concurrent requests allowed for app is 2.");
    private static final Found ABSENT = new Found.Absent();

    /// Of a cut at noon.
    private static Doubt.NoEnd doubt(Attempt attempt, Seen.Cut cut, long seconds) {
        return new Doubt.NoEnd(attempt, cut, cut.symptom(), cut.why(), NOON, NOON.plusSeconds(seconds));
    }

    private static Found running(String id) {
        return new Found.Running(run(id), RunStatus.RUNNING);
    }

    /// By the server's clock.
    private static Found running(String id, Duration age) {
        return new Found.Running(run(id), RunStatus.RUNNING, Optional.of(age));
    }

    private static Found ended(Seen.Ran ran) {
        return new Found.Ended(ran);
    }

    /// Time as the tests have it. It passes only while the engine waits for its mailbox: to the next thing planned, or
    /// as far as the engine wants. Workers are threads, but take turns with the engine's: one runs, the others wait.
    static final class World implements Executor {
        private static final int MOST_WAITS = 5_000;
        private static final ScopedValue<Worker> SELF = ScopedValue.newInstance();

        private final PriorityQueue<Plan> plans =
                new PriorityQueue<>(Comparator.comparing(Plan::at).thenComparing(Plan::order));
        private Instant start = NOON;
        private volatile Instant now = NOON;
        private long order = 0, waits = 0;

        private record Plan(Instant at, long order, Runnable what) {}

        private record Worker(Semaphore go, Semaphore back) {}

        final Clock clock = new Clock() {
            @Override
            public Instant instant() {
                return now;
            }

            @Override
            public ZoneId getZone() {
                return ZoneOffset.UTC;
            }

            @Override
            public Clock withZone(ZoneId zone) {
                return this;
            }
        };

        final BlockingQueue<Message> mailbox = new LinkedBlockingQueue<>() {
            @Override
            public Message poll(long timeout, TimeUnit unit) {
                var until = now.plusNanos(unit.toNanos(timeout));
                while (isEmpty() && !plans.isEmpty() && !plans.peek().at().isAfter(until)) {
                    var plan = plans.remove();
                    if (plan.at().isAfter(now)) now = plan.at();
                    plan.what().run();
                }
                if (isEmpty()) now = until;
                if (waits++ > MOST_WAITS) throw new AssertionError("the engine does not come to an end");
                return poll();
            }
        };

        Instant now() {
            return now;
        }

        Duration passed() {
            return Duration.between(start, now);
        }

        void startAt(Instant instant) {
            start = instant;
            now = instant;
        }

        void in(Duration time, Runnable what) {
            plans.add(new Plan(now.plus(time), order++, what));
        }

        /// Starts a worker, and comes back when it has ended or waits.
        @Override
        public void execute(Runnable task) {
            var worker = new Worker(new Semaphore(0), new Semaphore(0));
            Thread.startVirtualThread(() -> ScopedValue.where(SELF, worker).run(() -> {
                try {
                    task.run();
                } finally {
                    worker.back().release();
                }
            }));
            worker.back().acquireUninterruptibly();
        }

        /// A worker lets that much time pass.
        void pass(Duration time) throws InterruptedException {
            var worker = SELF.get();
            in(time, () -> wake(worker));
            sleep(worker);
        }

        /// A worker waits until the one given back is run by someone, which wakes it a moment later.
        void waitFor(Consumer<Runnable> alarm) throws InterruptedException {
            var worker = SELF.get();
            alarm.accept(() -> in(Duration.ofMillis(100), () -> wake(worker)));
            sleep(worker);
        }

        private static void sleep(Worker worker) throws InterruptedException {
            worker.back().release();
            worker.go().acquire();
        }

        private static void wake(Worker worker) {
            worker.go().release();
            worker.back().acquireUninterruptibly();
        }
    }

    /// What the workflow says to one attempt.
    @FunctionalInterface interface Answer {
        Seen to(Attempt attempt, Told told) throws InterruptedException;

        /// One after the other, and no more.
        static Answer inTurn(Seen... answers) {
            var left = new ArrayDeque<>(List.of(answers));
            return (_, _) -> left.remove();
        }

        /// Each row's own answers in turn; when there are none left, a success.
        static Answer byRow(Map<String, List<Seen>> answers) {
            var left = new HashMap<String, Deque<Seen>>();
            answers.forEach((id, list) -> left.put(id, new ArrayDeque<>(list)));
            return (attempt, _) -> {
                var own = left.getOrDefault(attempt.row().id(), new ArrayDeque<>());
                return own.isEmpty() ? succeeded("run-" + attempt.row().id()) : own.remove();
            };
        }
    }

    /// A batch in a folder, a workflow that answers as told, and an engine between them: as one call of the tool.
    /// Calls on the same folder come one after the other, as a user's do.
    static final class Scene implements Workflow, Watcher {
        final World world = new World();
        final Path csv, output;
        final List<Attempt> sent = new ArrayList<>();
        final List<Doubt> looked = new ArrayList<>();
        final List<String> stopped = new ArrayList<>(), said = new ArrayList<>();
        final Map<String, Runnable> alarms = new HashMap<>();
        Answer answer = (attempt, _) -> succeeded("run-" + attempt.row().id());
        Function<Doubt, Found> found = _ -> ABSENT;
        Function<OutputFile, Fetched> fetched = file -> new Fetched.There(file.place());
        final List<Instant> fetches = new ArrayList<>();
        Duration lookTakes = Duration.ZERO, fetchTakes = Duration.ZERO;
        Selection selection = Selection.pending();
        Backoff backoff = BACKOFF;
        RetryRuns failedRuns = RetryRuns.TRANSIENT;
        Mode mode = Mode.BLOCKING;
        Settle settle = Settle.DEFAULT;
        Ceiling maxFailures = null;
        Rate rate = null;
        Long maxTokens = null;
        Duration wait = null, timeout = seconds(300), grace = seconds(20);
        String server = "1.14.2", user = null;
        boolean resendUnknown = false, rebuild = false;
        int slots = 1, busy = 0, busiest = 0, looking = 0, mostLooks = 0, fetching = 0, mostFetches = 0;
        Tally tally;

        Scene(Path folder, String rows) throws IOException {
            csv = folder.resolve("data.csv");
            output = folder.resolve("results.jsonl");
            Files.writeString(csv, rows);
        }

        /// A batch of rows that have nothing but an id.
        static Scene of(Path folder, String... ids) throws IOException {
            return new Scene(folder, "id\n" + String.join("\n", ids) + "\n");
        }

        /// Plays one call to its end; says why it stopped early.
        Optional<Stop> play() throws Exception {
            try (var batch = open()) {
                var stop = play(batch);
                var last = batch.finish();
                return stop.isPresent() ? stop : last;
            }
        }

        BatchWriter open() {
            return BatchWriter.open(BatchFiles.of(output), Csv.open(csv, null), false,
                    rebuild, Optional.empty());
        }

        Optional<Stop> play(BatchWriter writer) throws Exception {
            var batch = writer.batch();
            var asked = new Selection(selection.listed(), selection.ids(), selection.force(), List.of(),
                    Long.MAX_VALUE, false, resendUnknown || selection.resendUnknown());
            var wanted = batch.select(asked, timeout);
            var route = new Route(mode, batch.history().mode(), server);
            writer.began(ACCESS.name(), "My app", server, route.mode(), "mode="
                    + mode.name().toLowerCase(Locale.ROOT) + " c=" + slots);
            tally = new Tally(wanted.rows(), world.clock);
            return new Engine(this, new Agenda(wanted),
                    new Judge(backoff, failedRuns, ACCESS), new Pace(slots, wait, rate),
                    new Health(backoff), new Limits(maxFailures, maxTokens, grace, timeout, settle),
                    route, writer, new Names(user), tally, this, world.clock, world.mailbox, world).run();
        }

        /// A call that dies once its workflow has been asked `after` times; what it was doing stays open in the log.
        void crash(int after) {
            var before = answer;
            answer = (attempt, told) -> {
                var seen = before.to(attempt, told);
                if (sent.size() >= after) throw new IllegalStateException("the power fails");
                return seen;
            };
            assertThrows(IllegalStateException.class, this::play);
            answer = before;
            sent.clear();
        }

        @Override
        public Seen run(Attempt attempt, Told told) {
            sent.add(attempt);
            busiest = Math.max(busiest, ++busy);
            try {
                return answer.to(attempt, told);
            } catch (InterruptedException _) {
                return cut(Symptom.NO_ANSWER);
            } finally {
                busy--;
            }
        }

        @Override
        public Found look(Doubt doubt) {
            looked.add(doubt);
            mostLooks = Math.max(mostLooks, ++looking);
            try {
                if (lookTakes.isPositive()) world.pass(lookTakes);
                return found.apply(doubt);
            } catch (InterruptedException _) {
                return new Found.Silent(cut(Symptom.NO_ANSWER));
            } finally {
                looking--;
            }
        }

        @Override
        public Fetched fetch(OutputFile file) {
            fetches.add(world.now());
            mostFetches = Math.max(mostFetches, ++fetching);
            try {
                if (fetchTakes.isPositive()) world.pass(fetchTakes);
                return fetched.apply(file);
            } catch (InterruptedException _) {
                return new Fetched.Missing("interrupted", false);
            } finally {
                fetching--;
            }
        }

        @Override
        public void stop(RunRef run, String user) {
            stopped.add(run.task());
            alarms.getOrDefault(run.task(), () -> {}).run();
        }

        @Override
        public void watch(Tally tally) {}

        @Override
        public void say(String sentence) {
            said.add(sentence);
        }

        @Override
        public void end() {}

        void interruptAfter(Duration time) {
            world.in(time, () -> world.mailbox.add(new Message.Interrupted("INT")));
        }

        /// A stream that begins its run and goes on until the run is asked to stop.
        Seen untilStopped(RunRef run, Told told) throws InterruptedException {
            told.began(run, Duration.ZERO);
            world.waitFor(alarm -> alarms.put(run.task(), alarm));
            return new Seen.Ran(run, RunStatus.FAILED, "{}".getBytes(UTF_8),
                    "Aborted: User requested stop", "workflow-1", Usage.NONE);
        }

        List<String> ids() {
            return sent.stream().map(attempt -> attempt.row().id()).toList();
        }

        Path file(String suffix) {
            return output.resolveSibling("results.jsonl" + suffix);
        }

        List<JsonNode> log() throws IOException {
            var lines = new ArrayList<JsonNode>();
            for (var line : Files.readAllLines(file(".log"))) lines.add(JSON.readTree(line));
            return lines;
        }

        static List<String> texts(String field, List<JsonNode> lines) {
            return lines.stream().map(line -> line.path(field).asText()).toList();
        }

        List<JsonNode> log(String event) throws IOException {
            return log().stream().filter(line -> line.path("event").asText().equals(event)).toList();
        }

        /// What became of each attempt of a row, by the log.
        List<String> outcomes(String id) throws IOException {
            return log("end").stream().filter(end -> end.path("id").asText().equals(id))
                    .map(end -> end.path("outcome").asText()).toList();
        }

        String error(String id) throws IOException {
            return log("end").stream().filter(end -> end.path("id").asText().equals(id)).toList().getLast()
                    .path("error").asText();
        }

        /// How long after a row was first sent its last end was known.
        Duration took(String id) throws IOException {
            var first = sent.stream().filter(attempt -> attempt.row().id().equals(id)).findFirst().orElseThrow().at();
            return Duration.between(first, end(id));
        }

        Instant end(String id) throws IOException {
            return Instant.parse(log("end").stream().filter(end -> end.path("id").asText().equals(id)).toList()
                    .getLast().path("t").asText());
        }

        List<JsonNode> results() throws IOException {
            var lines = new ArrayList<JsonNode>();
            for (var line : Files.readString(output).replace("\uFEFF", "").lines().toList())
                lines.add(JSON.readTree(line));
            return lines;
        }

        List<String> resultIds() throws IOException {
            return texts("id", results());
        }

        List<String> resultRuns() throws IOException {
            return texts("workflow_run_id", results());
        }

        List<String> retryIds() throws IOException {
            return Files.exists(file(".retry")) ? Files.readAllLines(file(".retry")) : List.of();
        }
    }

    // ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheHelp {
        @ParameterizedTest
        @CsvSource({"help.txt,", "run-help.txt, run", "retry-help.txt, retry", "status-help.txt, status",
                "export-help.txt, export", "check-help.txt, check", "shell-help.txt, shell"})
        void isTheOneInTheGoldenFile(String golden, String command) throws IOException {
            var out = new StringWriter();
            var line = commandLine(Env.of(Map.of("DIFY_API_KEY", "app-secret-of-mine")))
                    .setOut(new PrintWriter(out));

            int code = command == null ? line.execute("--help") : line.execute(command, "--help");

            assertEquals(OK, code);
            assertFalse(out.toString().contains("secret"));
            Golden.check(golden, out.toString());
        }
    }

    @Nested
    class TheOptions {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text,    millis
                90,      90000
                1.5,     1500
                0,       0
                90s,     90000
                2m,      120000
                1.5m,    90000
                1h,      3600000
                500ms,   500
                0.5,     500
                ' 7 s ', 7000
                8760h,   31536000000
                """)
        void aDurationIsSecondsUnlessItNamesItsUnit(String text, long millis) {
            assertEquals(Duration.ofMillis(millis), new Durations().convert(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "abc", "-1", "1,5", ".5", "5 minutes", "1e3", "5d", "٣", "8761h",
                "99999999999999999999"})
        void whatIsNoDurationIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> new Durations().convert(text));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text,                           address
                https://api.dify.ai/v1,         https://api.dify.ai/v1
                https://api.dify.ai/v1/,        https://api.dify.ai/v1
                ' http://dify.example:8080//',  http://dify.example:8080
                http://[::1]:5001/v1,           http://[::1]:5001/v1
                """)
        void anAddressEndsWithoutASlash(String text, URI address) {
            assertEquals(address, new Addresses().convert(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "api.dify.ai/v1", "ftp://dify.example", "file:/v1", "https://", "https:///v1",
                "http://two words", "https://dify.example/v1?key=1", "https://dify.example/v1#top",
                "https://me:secret@dify.example/v1"})
        void whatIsNoAddressIsRefusedWithoutRepeatingIt(String text) {
            var problem = assertThrows(CommandLine.TypeConversionException.class,
                    () -> new Addresses().convert(text));

            assertFalse(problem.getMessage().contains("secret"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text, failed, ended, reached
                3,    2,      100,   false
                3,    3,      3,     true
                1,    1,      1,     true
                5%,   19,     19,    false
                5%,   1,      20,    false
                5%,   2,      20,    true
                5%,   5,      100,   false
                5%,   6,      100,   true
                100%, 19,     20,    false
                100%, 20,     20,    true
                """)
        void aCeilingIsANumberOrAShareFromTwentyRowsOn(String text, long failed, long ended, boolean reached) {
            assertEquals(reached, new Ceiling.Converter().convert(text).isReached(failed, ended));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "0", "-1", "0%", "101%", "1.5%", "5 %", "%", "many", "9999999999"})
        void whatIsNoCeilingIsRefused(String text) {
            var converter = new Ceiling.Converter();

            assertThrows(CommandLine.TypeConversionException.class, () -> converter.convert(text));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text,      millis
                10/s,      100
                0.5/s,     2000
                120/m,     500
                500/h,     7200
                ' 1/h ',   3600000
                """)
        void aRateIsTheTimeBetweenTwoStarts(String text, long millis) {
            assertEquals(Duration.ofMillis(millis), new Rate.Converter().convert(text).interval());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "10", "0/s", "0.0/m", "-1/s", "10/d", "ten/s", "10 /s", "1/0"})
        void whatIsNoRateIsRefused(String text) {
            var converter = new Rate.Converter();

            assertThrows(CommandLine.TypeConversionException.class, () -> converter.convert(text));
        }

        @Test
        void aTypedOptionWinsOverTheEnvironmentThatOverTheFileThatOverTheDefault(@TempDir Path folder)
                throws IOException {
            Files.writeString(folder.resolve(".env"), "MAX_RETRIES=8\nMAX_RETRY_DELAY=9\n");
            var env = Env.of(Map.of("MAX_RETRIES", "7", "TIMEOUT", "2m"), folder);
            var line = commandLine(env);

            line.parseArgs("run", "-i", "data.csv", "-o", "results.jsonl", "--timeout", "30s");

            var work = ((Run) line.getSubcommands().get("run").getCommand()).work;
            assertEquals(seconds(30), work.dify.timeout);
            assertEquals(7, work.retrying.maxRetries);
            assertEquals(seconds(9), work.retrying.maxDelay);
            assertEquals(seconds(1), work.retrying.initialDelay);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                place, variable,            value, said
                .env,  TIMEOUT,             abc,   'TIMEOUT in FOLDER/.env, line 1: not a duration'
                .env,  TIMEOUT,             0,     'TIMEOUT in FOLDER/.env, line 1: a time above zero'
                '',    TIMEOUT,             abc,   TIMEOUT=abc: not a duration
                '',    INITIAL_RETRY_DELAY, -1,    INITIAL_RETRY_DELAY=-1: not a duration
                .env,  DIFY_API_BASE_URL,   dify,  'DIFY_API_BASE_URL in FOLDER/.env, line 1: not an address'
                """)
        void aValueThatCannotBeUsedIsNamedWithItsSource(String place, String variable, String value, String said,
                @TempDir Path folder) throws IOException {
            var err = new StringWriter();
            if (!place.isEmpty()) Files.writeString(folder.resolve(place), variable + "=" + value);
            var env = Env.of(place.isEmpty() ? Map.of(variable, value) : Map.of(), folder);

            int code = commandLine(env).setErr(new PrintWriter(err))
                    .execute("run", "-i", "a.csv", "-o", "b.jsonl");

            assertEquals(UNUSABLE, code);
            assertTrue(err.toString().startsWith("difyexec: " + said.replace("FOLDER", folder.toString())),
                    err.toString());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                concurrency, wait, slots
                -,           -,    5
                -,           2,    1
                8,           -,    8
                1,           2,    1
                """)
        void waitingRunsOneRowAtATime(Long concurrency, Integer wait, int slots) {
            var pace = new PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            assertEquals(slots, pace.concurrency());
        }

        @ParameterizedTest
        @CsvSource(nullValues = "-", value = {"10001, -", "99999999999, -", "2, 1"})
        void aConcurrencyThatCannotBeIsRefused(long concurrency, Integer wait) {
            var pace = new PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            var problem = assertThrows(Unusable.class, pace::concurrency);

            assertEquals(UNUSABLE, problem.code());
        }
    }

    // ── Engine ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheEngine {
        @TempDir Path folder;

        @Test
        void everySuccessIsALineOfTheResults() throws Exception {
            var scene = new Scene(folder, "id,text\na,hello\nb,wörld\n");

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(List.of("a", "b"), scene.resultIds());
            assertEquals("wörld", scene.results().get(1).path("inputs").path("text").asText());
            assertEquals("yes", scene.results().get(0).path("outputs").path("answer").asText());
            assertEquals("run-a", scene.results().get(0).path("workflow_run_id").asText());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void aSecondCallRepeatsNoSuccess() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = Answer.byRow(Map.of("b", List.of(failed("no such city"))));
            scene.play();
            scene.sent.clear();

            scene.play();

            assertEquals(List.of("b"), scene.ids());
            assertEquals(List.of("a", "c", "b"), scene.resultIds());
        }

        @Test
        void anAttemptIsOnDiskBeforeItIsOnTheWire() throws Exception {
            var scene = Scene.of(folder, "a");
            var onDisk = new ArrayList<String>();
            scene.answer = (attempt, _) -> {
                try {
                    scene.log("attempt").forEach(line -> onDisk.add(line.path("user").asText()));
                } catch (IOException problem) {
                    throw new UncheckedIOException(problem);
                }
                return succeeded("run-a");
            };

            scene.play();

            assertEquals(List.of(scene.sent.getFirst().user()), onDisk);
        }

        @Test
        void everyAttemptHasAUserOfItsOwn() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = Answer.inTurn(failed("Connection Error"), succeeded("run-a"), succeeded("run-b"));

            scene.play();

            assertEquals(3, scene.sent.stream().map(Attempt::user).distinct().count());
        }

        @Test
        void aResultThatCannotBeWrittenHasNoEndAndStopsTheBatch() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var engine = Thread.currentThread();
            scene.answer = (_, _) -> {
                engine.interrupt(); // closes the file under the engine's next write
                return succeeded("run-a");
            };
            var batch = scene.open();

            var stop = scene.play(batch).orElseThrow();
            Thread.interrupted();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().startsWith("cannot write"), stop.why());
            assertEquals(List.of("a"), scene.ids());
            assertEquals(List.of(), scene.log("end"));
            assertEquals(0, scene.tally.done());
            assertEquals(2, batch.batch().index().count(Standing.PENDING));
            batch.close();
        }

        @Test
        void aFailedRunIsTriedAgainAfterItsBackOff() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(seconds(10), seconds(60), 3);
            scene.answer = Answer.inTurn(failed("Rate Limit Error"), failed("Rate Limit Error"), succeeded("run-a"));

            scene.play();

            var first = Duration.between(scene.sent.get(0).at(), scene.sent.get(1).at());
            var second = Duration.between(scene.sent.get(1).at(), scene.sent.get(2).at());
            assertTrue(first.compareTo(seconds(5)) >= 0 && first.compareTo(seconds(10)) <= 0, first.toString());
            assertTrue(second.compareTo(seconds(10)) >= 0 && second.compareTo(seconds(20)) <= 0, second.toString());
            assertEquals(2, scene.results().getFirst().path("retry_count").asInt());
            assertEquals(List.of("again", "again", "succeeded"), scene.outcomes("a"));
        }

        @Test
        void aRowThatWaitsGivesItsSlotAway() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = Answer.byRow(Map.of("a", List.of(failed("Rate Limit Error"))));

            scene.play();

            assertEquals(List.of("a", "b", "a"), scene.ids());
        }

        @Test
        void anAnswerThatThereIsNoRoomForFailsItsRowForGood() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.failedRuns = RetryRuns.ALWAYS;
            scene.answer = Answer.byRow(Map.of("a", List.of(new Seen.TooLarge(Optional.of(run("run-a")),
                    "the answer is too large"))));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a", "b"), scene.ids());
            assertEquals(List.of(), scene.looked);
            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertEquals("run-a", scene.log("end").getFirst().path("run").asText());
            assertEquals(List.of("a"), scene.retryIds());
            assertEquals(List.of("b"), scene.resultIds());
        }

        @Test
        void aRunWhoseDetailThereIsNoRoomForFailsItsRowForGood() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.CUT, run("run-a")));
            scene.found = doubt -> new Found.Silent(new Seen.TooLarge(doubt.run(), "too large"));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(1, scene.looked.size());
            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertEquals("run-a", scene.log("end").getFirst().path("run").asText());
        }

        @Test
        void aRunWhoseAnswerFindsNoMemoryIsLookedUp() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = (_, _) -> {
                throw new OutOfMemoryError("as if");
            };
            scene.found = _ -> ended(succeeded("run-a"));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(1, scene.sent.size());
            assertEquals(List.of("run-a"), scene.resultRuns());
        }

        @Test
        void aRowThatFailsOnceTooOftenFails() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(failed("Connection Error"), failed("Connection Error"),
                    failed("Connection Error"), failed("Connection Error"));

            scene.play();

            assertEquals(List.of("again", "again", "again", "failed"), scene.outcomes("a"));
            assertEquals(List.of("a"), scene.retryIds());
            assertEquals(1, scene.tally.count(Standing.FAILED));
        }

        @Test
        void theRetryListIsInTheOrderOfTheFile() throws Exception {
            var scene = Scene.of(folder, "z", "m", "a", "ok");
            scene.slots = 3;
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(switch (attempt.row().id()) {
                    case "z" -> 3;
                    case "m" -> 2;
                    default -> 1;
                }));
                return attempt.row().id().equals("ok") ? succeeded("run-ok") : failed("no such city");
            };

            scene.play();

            assertEquals(List.of("z", "m", "a"), scene.retryIds());
        }

        @Test
        void theRetryListIsThereWhileTheBatchRuns() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var listed = new ArrayList<String>();
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("a")) return failed("no such city");
                try {
                    listed.addAll(scene.retryIds());
                } catch (IOException problem) {
                    throw new UncheckedIOException(problem);
                }
                return succeeded("run-b");
            };

            scene.play();

            assertEquals(List.of("a"), listed);
        }

        @Test
        void theRetryListIsGoneWhenNothingIsLeft() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.byRow(Map.of("a", List.of(failed("no such city"))));
            scene.play();
            assertEquals(List.of("a"), scene.retryIds());
            scene.selection = Selection.fromList();

            scene.play();

            assertFalse(Files.exists(scene.file(".retry")));
        }

        @Test
        void noMoreRunsThanSlotsGoOnAtOnce() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f", "g");
            scene.slots = 3;
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(1));
                return succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertEquals(3, scene.busiest);
            assertEquals(7, scene.resultIds().size());
        }

        @Test
        void aThrottledRowUsesNoRetryUp() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.backoff = new Backoff(seconds(1), seconds(2), 0);
            scene.answer = Answer.inTurn(THROTTLED, succeeded("run-b"), THROTTLED, THROTTLED, succeeded("run-a"));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(List.of("throttled", "throttled", "throttled", "succeeded"), scene.outcomes("a"));
            assertEquals(0, scene.results().getLast().path("retry_count").asInt());
            assertEquals(3, scene.log("throttle").size());
        }

        @Test
        void aServerThatTakesTwoAtOnceIsGivenTwo() throws Exception {
            var ids = IntStream.range(0, 20).mapToObj(n -> "row" + n).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.slots = 6;
            scene.backoff = new Backoff(seconds(1), seconds(4), 0);
            scene.answer = (attempt, _) -> {
                if (scene.busy > 2) return THROTTLED;
                scene.world.pass(seconds(3));
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(20, scene.resultIds().size());
            assertTrue(scene.log("throttle").size() < 20, "throttled " + scene.log("throttle").size() + " times");
            assertEquals(2, scene.log("throttle").getLast().path("limit").asInt());
        }

        @Test
        void runsThatWereCutCountAsRunningWhenAnotherIsRefused() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.slots = 3;
            scene.answer = Answer.byRow(Map.of("a", List.of(cut(Symptom.CUT, run("run-a"))),
                    "b", List.of(cut(Symptom.CUT, run("run-b"))),
                    "c", List.of(THROTTLED, succeeded("run-c"))));
            scene.found = doubt -> scene.looked.size() < 6 ? running(doubt.run().orElseThrow().id())
                    : ended(succeeded(doubt.run().orElseThrow().id()));

            scene.play();

            assertEquals(2, scene.log("throttle").getFirst().path("limit").asInt());
            assertEquals(Set.of("a", "b", "c"), Set.copyOf(scene.resultIds()));
        }

        @Test
        void aServerThatRefusesForAMinuteWhileNothingRunsStopsTheBatch() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = (_, _) -> THROTTLED;

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains("refuses every run as too many"), stop.why());
            assertTrue(scene.world.passed().compareTo(seconds(60)) > 0);
            assertTrue(scene.world.passed().compareTo(seconds(180)) < 0, scene.world.passed().toString());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void aPauseThatTheServerAsksForIsOneOfTheWholeBatch() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            scene.slots = 2;
            scene.answer = (attempt, _) -> {
                if (attempt.sequence() == 1) return later(429, seconds(120));
                scene.world.pass(seconds(30));
                return succeeded("run-" + attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of(NOON, NOON), scene.sent.stream().limit(2).map(Attempt::at).toList());
            for (var attempt : scene.sent.subList(2, 5))
                assertFalse(attempt.at().isBefore(NOON.plusSeconds(120)), attempt::toString);
            assertEquals(NOON.plusSeconds(30), scene.end("b"), "what runs goes on");
            assertEquals(List.of("waiting until " + local("HH:mm", NOON.plusSeconds(120)) + ", as the server asks"),
                    scene.said);
            assertEquals(4, scene.resultIds().size());
        }

        @Test
        void lookUpsWaitForItToo() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(later(503, seconds(40)));
            var looks = new ArrayList<Instant>();
            scene.found = _ -> {
                looks.add(scene.world.now());
                return looks.size() == 1 ? new Found.Silent(later(503, seconds(100)))
                        : ended(succeeded("run-a"));
            };

            scene.play();

            assertEquals(List.of(NOON.plusSeconds(40), NOON.plusSeconds(140)), looks);
            assertEquals(2, scene.said.size(), scene.said::toString);
        }

        @Test
        void rowsWaitForWhatALookUpOrAnUploadIsTold() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = (attempt, _) -> switch ((int) attempt.sequence()) {
                case 1 -> cut(Symptom.CUT);
                case 2 -> new Seen.NotUploaded("upload of x: HTTP 503", true, Optional.of(seconds(60)));
                default -> succeeded("run-" + attempt.row().id());
            };
            scene.found = _ -> scene.looked.size() < 2 ? new Found.Silent(later(429, seconds(30)))
                    : ended(succeeded("run-a"));

            scene.play();

            assertEquals(List.of(NOON, NOON.plusSeconds(30), NOON.plusSeconds(90), NOON.plusSeconds(90)),
                    scene.sent.stream().map(Attempt::at).sorted().toList());
            assertEquals(3, scene.resultIds().size());
        }

        @Test
        void refusalsThatComeTogetherAreToldOnce() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.slots = 3;
            scene.answer = (attempt, _) -> {
                scene.world.pass(Duration.ofMillis(attempt.sequence()));
                return attempt.sequence() <= 3 ? later(429, seconds(90)) : succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertEquals(1, scene.said.size(), scene.said::toString);
            assertEquals(6, scene.sent.size());
        }

        @Test
        void tenMinutesAreWaitedForAndAreNoSilence() throws Exception {
            var ids = IntStream.rangeClosed(1, 8).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.slots = 8;
            scene.timeout = seconds(3600);
            scene.answer = (_, _) -> later(503, seconds(600));
            scene.found = doubt -> ended(succeeded("run-" + doubt.attempt().row().id()));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(8, scene.resultIds().size());
            assertFalse(scene.world.now().isBefore(NOON.plusSeconds(600)));
        }

        @ParameterizedTest
        @ValueSource(ints = {429, 503})
        void aLongerPauseEndsTheCallAndNamesItsEnd(int status) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.slots = 2;
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("a")) return later(status, seconds(86_400));
                scene.world.pass(seconds(30));
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains(local("yyyy-MM-dd HH:mm", NOON.plusSeconds(86_400))), stop.why());
            assertEquals(List.of("a", "b"), scene.ids());
            assertEquals(List.of("b"), scene.resultIds());
            assertEquals(List.of(), scene.retryIds());
            assertEquals(List.of(), scene.said);
        }

        @Test
        void anUnreachedServerUsesNoRetryUp() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(seconds(1), seconds(60), 0);
            var away = new Seen.NotSent("connection refused");
            scene.answer = Answer.inTurn(away, away, away, succeeded("run-a"));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(List.of("unreached", "unreached", "unreached", "succeeded"), scene.outcomes("a"));
        }

        @Test
        void aServerThatDoesNotAnswerForFiveMinutesStopsTheBatch() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = (_, _) -> new Seen.NotSent("connection refused");

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains("has not answered for"), stop.why());
            assertTrue(scene.world.passed().compareTo(seconds(300)) > 0);
            assertTrue(scene.world.passed().compareTo(seconds(400)) < 0, scene.world.passed().toString());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void afterFiveFailuresInARowOneAttemptAtATimeAsksWhetherTheServerIsBack() throws Exception {
            var ids = IntStream.range(0, 30).mapToObj(n -> "row" + n).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.slots = 5;
            var failures = new AtomicInteger();
            var probing = new AtomicInteger();
            var probes = new ArrayList<Integer>();
            scene.answer = (attempt, _) -> {
                if (failures.get() >= 12) {
                    scene.world.pass(seconds(1));
                    return succeeded("run-" + attempt.row().id());
                }
                boolean probe = failures.get() >= 5;
                if (probe) probes.add(probing.incrementAndGet());
                scene.world.pass(seconds(1));
                if (probe) probing.decrementAndGet();
                failures.incrementAndGet();
                return new Seen.NotSent("connection refused");
            };

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(Set.of(1), Set.copyOf(probes));
            assertEquals(30, scene.resultIds().size());
        }

        @Test
        void aCutRunThatSucceededIsHarvestedAndNotRunAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER));
            scene.found = _ -> scene.looked.size() < 3 ? running("run-7") : ended(succeeded("run-7"));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(1, scene.sent.size());
            assertEquals(List.of("run-7"), Scene.texts("run", scene.log("harvest")));
            assertEquals(List.of("running", "running", "succeeded"), Scene.texts("saw", scene.log("look")));
            assertEquals("run-7", scene.results().getFirst().path("workflow_run_id").asText());
            assertEquals(scene.sent.getFirst().user(), scene.looked.getFirst().attempt().user());
        }

        @Test
        void aCutRunThatFailedOfSomethingTransientIsTriedAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.CUT, run("run-7")), succeeded("run-8"));
            scene.found = _ -> ended(failed("Rate Limit Error"));

            scene.play();

            assertEquals(List.of("again", "succeeded"), scene.outcomes("a"));
            assertEquals("run-8", scene.results().getFirst().path("workflow_run_id").asText());
        }

        /// As Dify 1.16 makes an end up: nothing was done, and nothing came of it.
        private static Seen.Ran madeUp(String id, String error) {
            return new Seen.Ran(new RunRef(id, id), RunStatus.FAILED,
                    "{}".getBytes(UTF_8), error, "workflow-1", Usage.NONE);
        }

        /// A scene of one row whose streams tell this of their runs, one after the other.
        private Scene streamed(Seen... told) throws IOException {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(told);
            return scene;
        }

        @ParameterizedTest
        @ValueSource(strings = {"Workflow stream ended without a terminal event", "Rate Limit Error", ""})
        void aRunThatIsSaidToHaveFailedAndGoesOnIsWaitedForAndNeverPaidTwice(String error) throws Exception {
            var scene = streamed(madeUp("run-7", error));
            scene.found = _ -> scene.looked.size() < 9 ? running("run-7") : ended(succeeded("run-7"));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(1, scene.sent.size());
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(List.of("run-7"), Scene.texts("run", scene.log("harvest")));
            assertEquals(List.of(), scene.log("late"));
        }

        @Test
        void aFailureThatIsNotStoredAndWhoseWordsAreARefusalFailsItsRowAtOnce() throws Exception {
            var scene = streamed(madeUp("never", "name is required in input form"));

            scene.play();

            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertEquals("name is required in input form", scene.error("a"));
            assertEquals(1, scene.looked.size());
            assertEquals(1, scene.sent.size());
            assertTrue(scene.world.passed().compareTo(seconds(2)) < 0, scene.world.passed().toString());
        }

        @Test
        void aFailureThatIsNotStoredAndMayPassIsTriedAgain() throws Exception {
            var scene = streamed(madeUp("never", "[Errno 111] Connection refused"), succeeded("run-8"));

            scene.play();

            assertEquals(List.of("again", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of("run-8"), scene.resultRuns());
        }

        @Test
        void aFailureThatIsNotStoredAndWhoseWordsProveNothingIsACutWithoutATrace() throws Exception {
            var scene = streamed(madeUp("never", "Workflow stream ended without a terminal event"),
                    succeeded("run-8"));

            scene.play();

            assertEquals(List.of("not_started", "succeeded"), scene.outcomes("a"));
            var between = Duration.between(scene.sent.get(0).at(), scene.sent.get(1).at());
            assertTrue(between.compareTo(seconds(300)) >= 0, between.toString());
            assertEquals(Optional.empty(), scene.looked.getLast().run());
        }

        @Test
        void anOldServersFailureThatIsNotStoredAndProvesNothingIsUnknown() throws Exception {
            var scene = streamed(madeUp("never", "Workflow stream ended without a terminal event"));
            scene.server = "1.9.2";

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertEquals(1, scene.sent.size());
        }

        @Test
        void aFailureThatIsStoredIsWhatItWasSaidToBeWithItsPrice() throws Exception {
            var priced = new Seen.Ran(run("run-7"), RunStatus.FAILED, "{}".getBytes(UTF_8),
                    "Rate Limit Error", "workflow-1", new Usage(1, 10, 3, Optional.of(BigDecimal.ONE), "USD"));
            var scene = streamed(priced, succeeded("run-8"));
            scene.found = _ -> ended(failed("Rate Limit Error"));

            scene.play();

            assertEquals(List.of("again", "succeeded"), scene.outcomes("a"));
            assertEquals("run-7", scene.log("end").getFirst().path("run").asText());
            assertEquals(1, scene.log("end").getFirst().path("price").asInt());
            assertEquals(List.of(), scene.log("harvest"));
            assertEquals(1, scene.looked.size());
        }

        @Test
        void whatIsStoredTakesThePlaceOfWhatWasMadeUp() throws Exception {
            var scene = streamed(madeUp("never", "Rate Limit Error"));
            scene.found = _ -> ended(ran("run-7", RunStatus.FAILED, "no such city"));

            scene.play();

            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertEquals("no such city", scene.error("a"));
            assertEquals("run-7", scene.log("end").getFirst().path("run").asText());
        }

        @Test
        void aRunThatIsSaidToHaveFailedAndSaysRunningForEverIsUnknownAtTheTimeLimit() throws Exception {
            var scene = streamed(madeUp("run-7", "Rate Limit Error"));
            scene.found = _ -> running("run-7");

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertEquals(1, scene.sent.size());
            assertTrue(scene.world.passed().compareTo(seconds(300)) >= 0, scene.world.passed().toString());
            assertTrue(scene.world.passed().compareTo(seconds(330)) < 0, scene.world.passed().toString());
        }

        @Test
        void aBlockingFailureThatWouldBePaidForAgainIsConfirmedToo() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(failed("Rate Limit Error"));
            scene.found = _ -> ended(succeeded("run-failed"));

            scene.play();

            assertEquals(1, scene.sent.size());
            assertEquals(List.of("a"), scene.resultIds());
        }

        @Test
        void anErrorBeforeASuccessIsSettledByTheRun() throws Exception {
            var scene = streamed(Seen.Refused.event(500, "", "name is required in input form",
                    Optional.of(run("run-7"))));
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(Optional.of(run("run-7")), scene.looked.getFirst().run());
            assertEquals(1, scene.sent.size());
            assertEquals(List.of("run-7"), scene.resultRuns());
        }

        @Test
        void aStreamThatToldTheEndOfAnotherRunIsSettledByItsOwn() throws Exception {
            var scene = streamed(cut(Symptom.CONTRADICTED, run("run-7")));
            scene.found = _ -> scene.looked.size() < 3 ? running("run-7") : ended(succeeded("run-7"));

            scene.play();

            assertEquals(1, scene.sent.size());
            assertEquals(List.of("run-7"), scene.resultRuns());
        }

        @Test
        void aFailureThatACrashLeftUnconfirmedIsLookedUpAtTheNextStart() throws Exception {
            var scene = streamed();
            scene.answer = (_, told) -> {
                told.began(run("run-7"), Duration.ZERO);
                return madeUp("run-7", "Rate Limit Error");
            };
            scene.found = _ -> {
                throw new IllegalStateException("the power fails");
            };
            assertThrows(IllegalStateException.class, scene::play);
            scene.sent.clear();
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of(), scene.ids());
            assertEquals(List.of("run-7"), scene.resultRuns());
        }

        @Test
        void aRunWithoutATraceIsSentAgainOnceThirtySecondsHavePassed() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));

            scene.play();

            assertEquals(List.of("not_started", "succeeded"), scene.outcomes("a"));
            var between = Duration.between(scene.sent.get(0).at(), scene.sent.get(1).at());
            assertTrue(between.compareTo(seconds(30)) >= 0 && between.compareTo(seconds(60)) < 0, between.toString());
            assertEquals(1, scene.results().getFirst().path("retry_count").asInt());
        }

        @Test
        void aRunThatTurnsUpBeforeTheNextAttemptIsTakenInItsPlace() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), failed("Rate Limit Error"));
            scene.found = doubt -> scene.sent.size() < 2 ? ABSENT
                    : doubt.is(Symptom.UNCONFIRMED) ? ended(failed("Rate Limit Error"))
                    : ended(succeeded("run-7"));

            scene.play();

            assertEquals(2, scene.sent.size());
            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(List.of("run-7"), Scene.texts("run", scene.log("late")));
        }

        @Test
        void aStreamWithoutATraceIsSentAgainOnceFiveMinutesHavePassed() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(cut(Symptom.CUT), succeeded("run-8"));

            scene.play();

            assertEquals(List.of("not_started", "succeeded"), scene.outcomes("a"));
            var between = Duration.between(scene.sent.get(0).at(), scene.sent.get(1).at());
            assertTrue(between.compareTo(seconds(300)) >= 0 && between.compareTo(seconds(330)) < 0, between.toString());
        }

        @Test
        void aRowThatTheServerBreaksOnEachTimeFailsAfterItsRetries() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = (attempt, _) -> attempt.row().id().equals("b") ? succeeded("run-b")
                    : http(500, "internal_server_error", "The server encountered an internal error");

            scene.play();

            assertEquals(List.of("a", "b", "a", "a", "a"), scene.ids());
            assertEquals("failed", scene.outcomes("a").getLast());
            assertEquals(List.of("a"), scene.retryIds());
        }

        @Test
        void aRowThatFailedWithoutEverStartingIsSentWhenItIsRetried() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(seconds(1), seconds(60), 0);
            scene.answer = Answer.inTurn(html(502), succeeded("run-8"));
            scene.play();
            assertEquals(List.of("a"), scene.retryIds());
            scene.selection = Selection.fromList();

            scene.play();

            assertEquals(List.of("a"), scene.resultIds());
        }

        @Test
        void aLeftStreamOfAnOldServerIsUnknownAtOnce() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.server = "1.9.2";
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(cut(Symptom.CUT));

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.error("a").contains("list a stream whose client has left"), scene.error("a"));
            assertTrue(scene.world.passed().compareTo(seconds(2)) < 0, scene.world.passed().toString());
            assertEquals(List.of("a"), scene.retryIds());
        }

        @Test
        void aLostAnswerOfAnOldServerIsWaitedForUntilTheTimeLimitAndThenUnknown() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.server = "1.9.2";
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER));

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(300)) >= 0, scene.world.passed().toString());
            assertEquals(1, scene.tally.count(Standing.UNKNOWN));
        }

        @Test
        void aServerThatIsSeenToListARunningRunProvesWhatItDoesNotList() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.server = "";
            scene.answer = Answer.byRow(Map.of("a", List.of(cut(Symptom.NO_ANSWER)),
                    "b", List.of(cut(Symptom.NO_ANSWER))));
            scene.found = doubt -> doubt.attempt().row().id().equals("b") ? ABSENT
                    : scene.looked.size() < 2 ? running("run-7") : ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("not_started", "succeeded"), scene.outcomes("b"));
        }

        @Test
        void withAFixedUserACutRunIsUnknown() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.user = "nightly";
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-b"));

            scene.play();

            assertEquals("nightly", scene.sent.getFirst().user());
            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(1)) < 0, "b waits for a run that nobody can find");
            assertTrue(scene.error("a").contains("--user"), scene.error("a"));
        }

        @Test
        void aRunThatStillRunsAtTheTimeLimitIsUnknown() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(html(504));
            scene.found = _ -> running("run-7");

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.error("a").contains("run-7 still says running"), scene.error("a"));
            assertTrue(scene.world.passed().compareTo(seconds(300)) >= 0, scene.world.passed().toString());
            assertTrue(scene.world.passed().compareTo(seconds(301)) < 0, scene.world.passed().toString());
        }

        @Test
        void theTimeOfARunThatWaitedAtTheDoorCountsFromItsOwnStart() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.slots = 2;
            var began = NOON.plusSeconds(299);
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(300));
                return cut(Symptom.TIMED_OUT);
            };
            scene.found = doubt -> {
                var id = doubt.attempt().row().id();
                boolean over = id.equals("a") && scene.world.now().isAfter(NOON.plusSeconds(500));
                return over ? ended(succeeded("run-a"))
                        : running("run-" + id, Duration.between(began, scene.world.now()));
            };

            scene.play();

            assertEquals(List.of("run-a"), scene.resultRuns());
            assertEquals(List.of("unknown"), scene.outcomes("b"));
            assertTrue(scene.took("b").compareTo(seconds(599)) >= 0, scene.took("b").toString());
            assertTrue(scene.took("b").compareTo(seconds(601)) < 0, scene.took("b").toString());
            assertTrue(scene.error("b").endsWith("still says running 5 min 0 s after its start"), scene.error("b"));
        }

        @ParameterizedTest(name = "the server says that it began {0} s before it was looked at")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                age,     unknown after
                0,       310
                4,       306
                3600,    300
                -3600,   310
                """)
        void aServersWrongClockMovesAStartOnlyBetweenTheSendingAndTheFirstLook(long age, long after) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(10));
                return html(504);
            };
            scene.found = _ -> running("run-a", seconds(age).plus(Duration.between(NOON.plusSeconds(10),
                    scene.world.now())));

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.took("a").compareTo(seconds(after)) >= 0, scene.took("a").toString());
            assertTrue(scene.took("a").compareTo(seconds(after + 1)) < 0, scene.took("a").toString());
        }

        @Test
        void theTimeOfAStreamCountsFromItsFirstEventAlsoWhenItIsCut() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = (_, told) -> {
                scene.world.pass(seconds(20)); // in the queue
                told.began(run("run-a"), seconds(20));
                scene.world.pass(seconds(290));
                return cut(Symptom.CUT, run("run-a"));
            };
            scene.found = _ -> running("run-a");

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.took("a").compareTo(seconds(320)) >= 0, scene.took("a").toString());
            assertTrue(scene.took("a").compareTo(seconds(321)) < 0, scene.took("a").toString());
        }

        @Test
        void aStreamThatNeverSaidAThingIsNotWaitedForTwice() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.server = "";
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(300));
                return cut(Symptom.SILENCE);
            };

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(301)) < 0, scene.world.passed().toString());
        }

        @Test
        void aRunOfAnEarlierStartHasItsTimeFromItsOwnStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            var began = NOON.plusSeconds(100);
            scene.world.startAt(NOON.plusSeconds(200));
            scene.found = _ -> running("run-a", Duration.between(began, scene.world.now()));

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertEquals(NOON.plusSeconds(400), scene.world.now());
        }

        @Test
        void aStoppedRunOverItsTimeGetsAMomentToEndWhateverItsStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = (_, told) -> {
                told.began(run("run-7"), Duration.ZERO);
                scene.world.pass(seconds(300));
                return cut(Symptom.TIMED_OUT, run("run-7"));
            };
            scene.found = _ -> scene.looked.size() < 3 ? running("run-7", Duration.between(NOON, scene.world.now()))
                    : ended(ran("run-7", RunStatus.STOPPED, "Aborted: User requested stop"));

            scene.play();

            assertEquals(List.of("failed"), scene.outcomes("a"));
        }

        @Test
        void aCutRunCountsAsRunningUntilItsEndIsKnown() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.lookTakes = seconds(1);
            scene.answer = Answer.byRow(Map.of("a", List.of(cut(Symptom.NO_ANSWER))));
            scene.found = _ -> scene.looked.size() < 3 ? running("run-7") : ended(succeeded("run-7"));

            scene.play();

            var known = Instant.parse(scene.log("harvest").getFirst().path("t").asText());
            assertEquals("b", scene.sent.getLast().row().id());
            assertFalse(scene.sent.getLast().at().isBefore(known), "b was sent while the run of a went on");
        }

        @Test
        void whatAKilledServerLeavesRunningForEverDoesNotHoldUpTheRowsThatAreLeft() throws Exception {
            var ids = IntStream.rangeClosed(1, 60).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.slots = 5;
            scene.timeout = seconds(40);
            Instant killed = NOON.plusSeconds(3), back = killed.plusSeconds(2);
            var away = new Seen.NotSent("connection refused");
            scene.answer = (attempt, _) -> {
                boolean isOfTheKilled = attempt.sequence() <= 5;
                if (isOfTheKilled) scene.world.pass(seconds(3));
                else if (scene.world.now().isBefore(back)) return away;
                else scene.world.pass(Duration.ofMillis(200));
                return isOfTheKilled ? cut(Symptom.NO_ANSWER) : succeeded("run-" + attempt.row().id());
            };
            scene.found = doubt -> scene.world.now().isBefore(back) ? new Found.Silent(away)
                    : running("run-" + doubt.attempt().row().id(), Duration.between(NOON, scene.world.now()));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(55, scene.resultIds().size());
            for (var id : scene.resultIds())
                assertTrue(scene.end(id).isBefore(back.plusSeconds(25)), id + " at " + scene.end(id));
            for (var id : List.of("1", "2", "3", "4", "5")) {
                assertEquals(List.of("unknown"), scene.outcomes(id));
                assertTrue(scene.took(id).compareTo(seconds(40)) >= 0, id + " after " + scene.took(id));
                assertTrue(scene.took(id).compareTo(seconds(50)) <= 0, id + " after " + scene.took(id));
            }
        }

        @Test
        void runsThatWereCutHoldHalfOfThePlacesAtMost() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f", "g", "h");
            scene.slots = 4;
            scene.lookTakes = seconds(1);
            var together = new TreeSet<Integer>();
            scene.answer = (attempt, _) -> {
                if (attempt.sequence() <= 3) return cut(Symptom.CUT, run("run-" + attempt.row().id()));
                scene.world.pass(seconds(2));
                if (attempt.sequence() > 4) together.add(scene.busy);
                return succeeded("run-" + attempt.row().id());
            };
            scene.found = _ -> running("run-7");

            scene.play();

            assertEquals(2, together.last());
            assertEquals(List.of("d", "e", "f", "g", "h"), scene.resultIds());
        }

        @ParameterizedTest(name = "the slowest run took {0} s: the next begins after {1} s")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                slowest, after
                1,       10
                2,       10
                6,       24
                """)
        void aCutRunHoldsTheOnlyPlaceAsLongAsTheServerMayBeAtWorkOnIt(long slowest, long after) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) return cut(Symptom.NO_ANSWER);
                scene.world.pass(seconds(slowest));
                return succeeded("run-" + attempt.row().id());
            };
            scene.found = _ -> running("run-b");

            scene.play();

            assertEquals(List.of("a", "b", "c"), scene.ids());
            var waited = Duration.between(scene.sent.get(1).at(), scene.sent.get(2).at());
            assertTrue(waited.compareTo(seconds(after)) >= 0 && waited.compareTo(seconds(after + 1)) < 0,
                    waited.toString());
        }

        @Test
        void aServerThatRefusesForTheRunsItLostIsNotAskedAgainForEachRow() throws Exception {
            var ids = IntStream.rangeClosed(1, 1000).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.slots = 5;
            scene.timeout = seconds(60);
            scene.answer = (attempt, _) -> {
                if (attempt.sequence() <= 5) return cut(Symptom.NO_ANSWER);
                return scene.world.now().isBefore(NOON.plusSeconds(60)) ? THROTTLED
                        : succeeded("run-" + attempt.row().id());
            };
            scene.found = doubt -> running("run-" + doubt.attempt().row().id());

            scene.play();

            assertEquals(995, scene.resultIds().size());
            assertTrue(scene.log("throttle").size() < 60, scene.log("throttle").size() + " refusals in a minute");
        }

        @Test
        void aRunThatTheServerDoesNotListHoldsNoPlace() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = Answer.byRow(Map.of("a", List.of(cut(Symptom.NO_ANSWER))));

            scene.play();

            assertEquals(List.of("a", "b", "a"), scene.ids());
            assertTrue(scene.sent.get(1).at().isBefore(NOON.plusSeconds(5)), scene.sent.get(1).at().toString());
        }

        @Test
        void lookUpsTakeFewOfTheServersConnections() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            scene.slots = 6;
            scene.lookTakes = seconds(1);
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(1));
                return http(500, "unknown", "Internal Server Error");
            };
            scene.found = doubt -> ended(succeeded("run-" + doubt.attempt().row().id()));

            scene.play();

            assertEquals(2, scene.mostLooks);
            assertEquals(6, scene.resultIds().size());
        }

        @Test
        void aStoppedRunIsLookedUpTwiceBeforeItIsBelieved() throws Exception {
            var scene = Scene.of(folder, "a");
            var stopped = ran("run-7", RunStatus.STOPPED, "Stopped by user.");
            scene.answer = Answer.inTurn(stopped);
            scene.found = _ -> ended(stopped);

            scene.play();

            assertEquals(2, scene.looked.size());
            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertEquals("Stopped by user.", scene.error("a"));
        }

        @Test
        void aRunThatWasReportedStoppedAndSucceededAllTheSameIsHarvestedAndCountedOnce() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.maxTokens = 25L; // each run uses 10
            var stopped = ran("run-7", RunStatus.STOPPED, "Stopped by user.");
            scene.answer = Answer.byRow(Map.of("a", List.of(stopped)));
            scene.found = _ -> ended(scene.looked.size() < 2 ? stopped : succeeded("run-7"));

            var stop = scene.play();

            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(Optional.empty(), stop);
        }

        @Test
        void aRunOverItsTimeIsStoppedAndThenFails() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = (_, told) -> {
                told.began(run("run-7"), Duration.ZERO);
                scene.world.pass(seconds(300));
                return cut(Symptom.TIMED_OUT, run("run-7"));
            };
            scene.found = _ -> ended(ran("run-7", RunStatus.STOPPED, "Aborted: User requested stop"));

            scene.play();

            assertTrue(scene.looked.getFirst().stopsFirst());
            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertTrue(scene.log("end").getFirst().path("cause").asText().startsWith("timed out"));
            assertEquals(List.of("run-7"), Scene.texts("run", scene.log("run")));
            var stop = scene.log("stop").getFirst();
            assertEquals("timed out", stop.path("why").asText());
            assertEquals("task-of-run-7", stop.path("task").asText());
            assertEquals(scene.sent.getFirst().user(), stop.path("user").asText());
        }

        @Test
        void aRunThatWasStoppedForItsTimeRunsAnewAtNoLaterStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(cut(Symptom.TIMED_OUT, run("run-7")));
            scene.found = _ -> {
                if (scene.looked.size() > 1) throw new IllegalStateException("the power fails");
                return running("run-7");
            };
            assertThrows(IllegalStateException.class, scene::play);
            assertEquals(List.of("timed out"), Scene.texts("why", scene.log("stop")));
            var next = Scene.of(folder, "a");
            next.found = _ -> ended(ran("run-7", RunStatus.STOPPED, "Aborted: User requested stop"));

            next.play();

            assertEquals(List.of(), next.ids());
            assertEquals(List.of("failed"), next.outcomes("a"));
        }

        @Test
        void streamsThatWaitForTheirFirstEventSlowTheBatchDown() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            scene.mode = Mode.STREAMING;
            scene.slots = 3;
            scene.answer = (attempt, told) -> {
                boolean queued = attempt.row().id().equals("c");
                if (queued) scene.world.pass(seconds(12));
                told.began(run("run-" + attempt.row().id()), queued ? seconds(12) : Duration.ofMillis(30));
                scene.world.pass(seconds(10));
                return succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertEquals(List.of("a", "b", "c", "d"), scene.resultIds().stream().sorted().toList());
            var throttle = scene.log("throttle");
            assertEquals(List.of("first event after 12 s"), Scene.texts("why", throttle));
            assertEquals(2, throttle.getFirst().path("limit").asInt());
        }

        /// A server of so many connections: the next requests wait at its door, in turn. A connection is used again
        /// within a second, unless someone has waited for two.
        private static final class FullServer {
            private final Scene scene;
            private final int places;
            private final ToLongFunction<Attempt> millis;
            private final Deque<Waiting> outside = new ArrayDeque<>();
            private int inside = 0, idle = 0;

            private record Waiting(Instant since, Runnable wake) {}

            FullServer(Scene scene, int places, ToLongFunction<Attempt> millis) {
                this.scene = scene;
                this.places = places;
                this.millis = millis;
            }

            Seen answer(Attempt attempt) throws InterruptedException {
                if (idle > 0) idle--;
                else if (inside < places) inside++;
                else scene.world.waitFor(alarm -> outside.add(new Waiting(scene.world.now(), alarm)));
                var waited = Duration.between(attempt.at(), scene.world.now());
                long takes = millis.applyAsLong(attempt);
                scene.world.pass(Duration.ofMillis(takes));
                answered();
                return new Seen.Ran(run("run-" + attempt.row().id()), RunStatus.SUCCEEDED,
                        "{}".getBytes(UTF_8), "", "workflow-1",
                        new Usage(takes / 1000.0, 0, 1, Optional.empty(), "")).after(Optional.of(waited));
            }

            private void answered() {
                if (!outside.isEmpty() && outside.peek().since().plusSeconds(2).isBefore(scene.world.now())) close();
                else {
                    idle++;
                    scene.world.in(seconds(1), () -> {
                        if (idle > 0) {
                            idle--;
                            close();
                        }
                    });
                }
            }

            private void close() {
                if (outside.isEmpty()) inside--;
                else outside.remove().wake().run();
            }
        }

        /// How long 500 rows take there, and to what the batch slows down.
        private Duration passed(int slots, int places, ToLongFunction<Attempt> millis, List<Integer> limits)
                throws Exception {
            var ids = IntStream.rangeClosed(1, 500).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(Files.createTempDirectory(folder, "door"), ids);
            scene.slots = slots;
            var server = new FullServer(scene, places, millis);
            scene.answer = (attempt, _) -> server.answer(attempt);
            assertEquals(Optional.empty(), scene.play());
            assertEquals(500, scene.resultIds().size());
            for (var cut : scene.log("throttle")) {
                assertTrue(cut.path("why").asText().endsWith("at the server's door"), cut::toString);
                limits.add(cut.path("limit").asInt());
            }
            return scene.world.passed();
        }

        @ParameterizedTest(name = "{0} connections, runs of {1} to {2} ms")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                places, least, most
                10,     300,   300
                10,     1500,  1500
                10,     12000, 12000
                10,     1500,  6000
                10,     4000,  20000
                3,      5000,  5000
                3,      2000,  9000
                """)
        void rowsThatWaitAtTheServersDoorSlowTheBatchDownToThoseInside(int places, long least, long most)
                throws Exception {
            var limits = new ArrayList<Integer>();
            ToLongFunction<Attempt> millis = attempt -> least
                    + (most - least) * (attempt.row().id().hashCode() * 37L % 11) / 10;

            var fitting = passed(places, places, millis, new ArrayList<>());
            var all = passed(20, places, millis, limits);

            // a burst hides at first how many are inside
            assertTrue(limits.size() > 1 && limits.size() < 25, limits::toString);
            for (int limit : limits.subList(1, limits.size()))
                assertTrue(limit == places || limit == places + 1, limits::toString);
            assertTrue(fitting.toMillis() >= 0.9 * all.toMillis(), fitting + " with as many, " + all + " with 20");
        }

        @Test
        void aRunOverItsTimeThatHadSucceededIsHarvested() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(cut(Symptom.TIMED_OUT, run("run-7")));
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(List.of("a"), scene.resultIds());
        }

        @Test
        void aRunOverItsTimeThatCannotBeStoppedIsUnknown() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.TIMED_OUT));
            scene.found = _ -> running("run-7");

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertFalse(scene.looked.getFirst().stopsFirst());
        }

        @Test
        void aQuietStreamIsAskedAboutAndItsEndTakenFromTheRecords() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.mode = Mode.STREAMING;
            scene.answer = (attempt, told) -> {
                if (attempt.row().id().equals("b")) return succeeded("run-b");
                told.began(run("run-7"), Duration.ZERO);
                scene.world.pass(seconds(30));
                told.quiet(run("run-7"));
                scene.world.pass(seconds(30));
                told.quiet(run("run-7"));
                scene.world.waitFor(_ -> {});
                throw new AssertionError("nothing wakes a stream that was given up");
            };
            scene.found = _ -> scene.looked.size() < 2 ? running("run-7") : ended(succeeded("run-7"));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(2, scene.looked.size());
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(List.of("a", "b"), scene.resultIds());
        }

        @Test
        void anAnswerThatConcernsTheBatchLeavesItsRowsPending() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = Answer.inTurn(succeeded("run-a"), http(401, "unauthorized", "Access token is invalid"));

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains("DIFY_API_KEY"), stop.why());
            assertEquals(List.of("a", "b"), scene.ids());
            assertEquals(List.of("refused"), scene.outcomes("b"));
            assertEquals(List.of(), scene.retryIds());
            assertEquals(List.of("a"), scene.resultIds());
            assertEquals(stop.why(), scene.log("stop").getLast().path("why").asText());
        }

        @Test
        void aLookThatConcernsTheBatchStopsItToo() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.CUT));
            scene.found = _ -> new Found.Silent(http(401, "unauthorized", "Access token is invalid"));

            var stop = scene.play().orElseThrow();

            assertTrue(stop.why().contains("DIFY_API_KEY"), stop.why());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void aLookWithoutAnAnswerIsRepeated() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(html(502));
            scene.found = _ -> scene.looked.size() < 8 ? new Found.Silent(html(502))
                    : ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("a"), scene.resultIds());
            assertEquals(1, scene.sent.size());
        }

        @Test
        void tooManyFailuresStopTheBatch() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            scene.maxFailures = new Ceiling(2, 1);
            scene.answer = Answer.inTurn(failed("no"), succeeded("run-b"), failed("no"));

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains("--max-failures"), stop.why());
            assertEquals(List.of("a", "c"), scene.retryIds());
        }

        @Test
        void rowsWithoutARunCountAsFailuresToo() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.backoff = new Backoff(seconds(1), seconds(4), 0);
            scene.maxFailures = new Ceiling(1, 1);
            scene.slots = 1;
            scene.answer = (_, _) -> cut(Symptom.NO_ANSWER);
            scene.found = _ -> ABSENT;

            var stop = scene.play().orElseThrow();

            assertEquals("--max-failures reached: 1 row failed", stop.why());
            assertEquals(STOPPED, stop.code());
        }

        @Test
        void aCsvThatIsCutShortStopsTheBatchAndSaysSo() throws Exception {
            var ids = IntStream.range(0, 2_000).mapToObj("%063d"::formatted).toArray(String[]::new);
            var scene = Scene.of(folder, ids); // more than is read ahead
            scene.slots = 2;
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(1));
                if (scene.sent.size() == 2) shorten(scene.csv, 3 + 1_500 * 64);
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().endsWith("the file was changed while it was in use, it was cut short"), stop.why());
            assertEquals(scene.ids(), scene.resultIds());
            assertEquals(List.of(stop.why()), Scene.texts("why", scene.log("stop")));
        }

        private static void shorten(Path csv, long bytes) {
            try (var file = FileChannel.open(csv, StandardOpenOption.WRITE)) {
                file.truncate(bytes);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        @Test
        void tooManyTokensStopTheBatch() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.maxTokens = 20L;

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains("--max-tokens"), stop.why());
            assertEquals(List.of("a", "b"), scene.resultIds());
        }

        @Test
        void anInterruptLetsRunningRowsEnd() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.slots = 2;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(5));
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(INTERRUPTED, stop.code());
            assertEquals(List.of("a", "b"), scene.ids());
            assertEquals(List.of("a", "b"), scene.resultIds());
            assertEquals(seconds(5), scene.world.passed());
            assertEquals(List.of(), scene.stopped);
        }

        @Test
        void anInterruptStopsWhatStillRunsAfterTheGrace() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.mode = Mode.STREAMING;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, told) -> scene.untilStopped(run("run-" + attempt.row().id()), told);

            var stop = scene.play().orElseThrow();

            assertEquals(INTERRUPTED, stop.code());
            assertEquals(List.of("task-of-run-a"), scene.stopped);
            assertTrue(scene.world.passed().compareTo(seconds(21)) >= 0, scene.world.passed().toString());
            assertTrue(scene.world.passed().compareTo(seconds(24)) < 0, scene.world.passed().toString());
            assertEquals(List.of("interrupted"), scene.outcomes("a"));
            assertEquals(List.of(), scene.retryIds());
            assertEquals("task-of-run-a", scene.log("stop").getFirst().path("task").asText());
            assertEquals(List.of("run-a"), Scene.texts("run", scene.log("run")));
        }

        @Test
        void aSecondInterruptStopsWhatRunsAtOnce() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.interruptAfter(seconds(1));
            scene.interruptAfter(seconds(2));
            scene.answer = (attempt, told) -> scene.untilStopped(run("run-" + attempt.row().id()), told);

            var stop = scene.play().orElseThrow();

            assertEquals(INTERRUPTED, stop.code());
            assertEquals(List.of("task-of-run-a"), scene.stopped);
            assertTrue(scene.world.passed().compareTo(seconds(4)) < 0, scene.world.passed().toString());
        }

        @Test
        void anInterruptWinsOverAnEarlierReasonToStop() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.slots = 2;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("a")) return http(401, "unauthorized", "Access token is invalid");
                scene.world.pass(seconds(5));
                return succeeded("run-b");
            };

            var stop = scene.play().orElseThrow();

            assertEquals(INTERRUPTED, stop.code());
            assertEquals(List.of("b"), scene.resultIds());
        }

        @Test
        void anInterruptEndsABatchThatOnlyWaits() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.interruptAfter(seconds(40));
            scene.backoff = new Backoff(seconds(600), seconds(600), 3);
            scene.answer = Answer.inTurn(failed("Rate Limit Error"));

            var stop = scene.play().orElseThrow();

            assertEquals(INTERRUPTED, stop.code());
            assertEquals(seconds(40), scene.world.passed());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void theRestIsEstimatedByTheRowsThatRanAndNotByThoseThatWereLookedUp() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            scene.slots = 2;
            scene.crash(2);
            var next = new Scene(folder, Files.readString(scene.csv));
            next.selection = Selection.named(List.of("a", "b", "c"), false);
            next.lookTakes = seconds(100);
            next.found = doubt -> ended(succeeded("run-" + doubt.attempt().row().id()));
            next.answer = (_, _) -> {
                next.world.pass(seconds(8));
                return succeeded("run-c"); // 10 tokens
            };

            next.play();

            assertEquals(3, next.tally.succeeded());
            assertEquals(Optional.of("The other 3 rows: about 24 s, 30 tokens"),
                    Summary.estimate(3, next.tally));
        }

        @Test
        void withoutARowThatRanThereIsNoEstimate() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.crash(1);
            var next = Scene.of(folder, "a", "b");
            next.selection = Selection.named(List.of("a"), false);
            next.found = _ -> ended(succeeded("run-a"));

            next.play();

            assertEquals(1, next.tally.succeeded());
            assertEquals(Optional.empty(), Summary.estimate(1, next.tally));
        }

        @Test
        void whatWasLeftRunningIsLookedUpAtTheNextStart() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.interruptAfter(seconds(1));
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(90)); // a blocking run: there is no task to stop
                return succeeded("run-7");
            };
            var stop = scene.play().orElseThrow();
            assertEquals(INTERRUPTED, stop.code());
            assertTrue(scene.world.passed().compareTo(seconds(25)) < 0, scene.world.passed().toString());
            assertEquals(List.of(), scene.outcomes("a"));
            var user = scene.sent.getFirst().user();
            var next = new Scene(folder, "id\na\nb\n");
            next.found = _ -> ended(succeeded("run-7"));

            next.play();

            assertEquals(user, next.looked.getFirst().attempt().user());
            assertEquals(List.of("b"), next.ids());
            assertEquals(Set.of("a", "b"), Set.copyOf(next.resultIds()));
        }

        @Test
        void aRunThatWasStoppedByUsAndWhoseEndWasNotSeenRunsAnewAtTheNextStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.interruptAfter(seconds(1));
            scene.answer = (_, told) -> {
                told.began(run("run-7"), Duration.ZERO);
                scene.world.pass(seconds(3600));
                throw new AssertionError("nobody waits for so long");
            };
            scene.play();
            assertEquals(List.of("task-of-run-7"), scene.stopped);
            assertEquals(List.of(), scene.outcomes("a"));
            var next = Scene.of(folder, "a");
            next.answer = Answer.inTurn(succeeded("run-8"));
            next.found = _ -> ended(ran("run-7", RunStatus.STOPPED, "Aborted: User requested stop"));

            next.play();

            assertEquals("run-7", next.looked.getFirst().run().orElseThrow().id());
            assertEquals(List.of("interrupted", "succeeded"), next.outcomes("a"));
            assertEquals(List.of("run-8"), next.resultRuns());
        }

        @Test
        void aRunThatTurnsUpAfterItsRowWasSentAgainIsReportedAsLate() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            scene.found = doubt -> doubt instanceof Doubt.Late ? ended(succeeded("run-7")) : ABSENT;

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            var late = scene.log("late").getFirst();
            assertEquals("run-7", late.path("run").asText());
            assertEquals(scene.sent.getFirst().user(), late.path("user").asText());
            assertTrue(scene.said.getLast().contains("turned up late"), scene.said.toString());
            assertEquals(List.of("run-8"), scene.resultRuns());
        }

        @Test
        void aRunThatTurnsUpLateIsReportedAtALaterStartToo() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            scene.play();
            assertEquals(List.of(), scene.log("late"));
            var next = Scene.of(folder, "a", "b");
            next.found = _ -> running("run-7");

            next.play();
            next.play();

            assertEquals(1, next.log("late").size());
            assertEquals("a", next.log("late").getFirst().path("id").asText());
        }

        @Test
        void aRunThatTurnsUpLateAndSucceededIsTakenWhereTheRowHasNoSuccess() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), failed("no such city"));
            scene.found = doubt -> doubt instanceof Doubt.Late ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void ofTwoRunsOfARowThatTurnUpAtOnceOneIsTaken() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(Duration.ZERO, Duration.ZERO, 2);
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), cut(Symptom.NO_ANSWER),
                    failed("no such city"));
            scene.found = doubt -> doubt instanceof Doubt.Late
                    ? ended(succeeded("run-of-" + doubt.attempt().user())) : ABSENT;

            scene.play();

            assertEquals(2, scene.log("late").size());
            assertEquals(1, scene.results().size());
            assertEquals(1, scene.tally.done());
        }

        @Test
        void aRunThatTurnsUpRunningIsReportedOnceAndWaitedFor() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), failed("Rate Limit Error"));
            scene.found = doubt -> {
                if (doubt.is(Symptom.UNCONFIRMED)) return ended(failed("Rate Limit Error"));
                if (scene.sent.size() < 2) return ABSENT;
                return scene.looked.size() < 20 ? running("run-7") : ended(succeeded("run-7"));
            };

            scene.play();

            assertEquals(List.of("running"), Scene.texts("saw", scene.log("late")));
            assertEquals(2, scene.sent.size());
            assertEquals(List.of("run-7"), scene.resultRuns());
        }

        /// A row that is unknown since its run says running for ever.
        private Scene dead(Optional<RunRef> run) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.byRow(Map.of("a", List.of(new Seen.Cut(run, Symptom.CUT, "gone"))));
            scene.found = _ -> running("run-7");
            scene.play();
            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertEquals("run-7", scene.log("end").getLast().path("run").asText());
            scene.sent.clear();
            scene.resendUnknown = true;
            return scene;
        }

        @ParameterizedTest
        @ValueSource(booleans = {true, false})
        void aRunThatWasKnownWhenItsRowWasSentAgainIsNotLateInThisCallOrALaterOne(boolean byId) throws Exception {
            var scene = dead(byId ? Optional.of(run("run-7")) : Optional.empty());

            scene.play();
            scene.found = _ -> ended(succeeded("run-7"));
            scene.play();

            assertEquals(List.of("unknown", "resent", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of("a"), scene.ids());
            assertEquals(List.of(), scene.log("late"));
        }

        @Test
        void aRunThatBecameKnownJustBeforeItsRowWasSentAgainIsNotLateEither() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            scene.world.startAt(NOON.plusSeconds(3600));
            scene.resendUnknown = true;
            scene.found = _ -> running("run-7");
            scene.play();
            assertEquals(List.of("resent", "succeeded"), scene.outcomes("a"));

            scene.play();

            assertEquals(List.of(), scene.log("late"));
        }

        @Test
        void aRunThatWasKnownHoldsUpNoFurtherAttemptOfItsRow() throws Exception {
            var scene = dead(Optional.empty());
            scene.answer = Answer.inTurn(failed("Rate Limit Error"), succeeded("run-9"));
            scene.found = doubt -> doubt.is(Symptom.UNCONFIRMED) ? ended(failed("Rate Limit Error"))
                    : running("run-7");
            scene.world.startAt(NOON.plusSeconds(7200));

            scene.play();

            assertEquals(List.of("unknown", "resent", "again", "succeeded"), scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(10)) < 0, scene.world.passed().toString());
        }

        @Test
        void aRunOfWhichNobodyKnewWhenItsRowWasSentAgainByWishIsLate() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.server = "1.9.2";
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(cut(Symptom.CUT), succeeded("run-8"));
            scene.play();
            scene.resendUnknown = true;
            scene.found = doubt -> doubt instanceof Doubt.Late ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("unknown", "resent", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of("run-7"), Scene.texts("run", scene.log("late")));
        }

        @Test
        void aWorkerThatBreaksIsABug() throws Exception {
            var scene = Scene.of(folder, "a");
            var bug = new IndexOutOfBoundsException("7");
            scene.answer = (_, _) -> {
                throw bug;
            };

            var problem = assertThrows(IllegalStateException.class, scene::play);

            assertEquals(bug, problem.getCause());
        }

        @Test
        void anAttemptLeftOpenIsLookedUpBeforeItsRowMayRun() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.crash(1);
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("a"), scene.looked.stream().map(doubt -> doubt.attempt().row().id()).toList());
            assertEquals(List.of("b"), scene.ids());
            assertEquals(Set.of("run-7", "run-b"), Set.copyOf(scene.resultRuns()));
        }

        @Test
        void aRunIdThatWasSeenBeforeACrashIsWhatIsLookedUp() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = (_, told) -> {
                told.began(run("run-7"), Duration.ZERO);
                scene.world.pass(seconds(1));
                return succeeded("run-7");
            };
            scene.crash(1);
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(Optional.of(run("run-7")), scene.looked.getFirst().run());
            assertEquals(List.of(), scene.ids());
            assertEquals(List.of("a"), scene.resultIds());
        }

        @Test
        void theRetriesOfAnEarlierStartAreToldAndBeingKilledIsNone() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(seconds(1), seconds(1), 2);
            scene.answer = Answer.inTurn(failed("Rate Limit Error"), succeeded("run-7"), failed("Rate Limit Error"),
                    succeeded("run-9"));
            scene.crash(2);
            scene.world.in(seconds(60), () -> {});

            scene.play();

            assertEquals(List.of("again", "not_started", "again", "succeeded"), scene.outcomes("a"));
            assertEquals(2, scene.results().getFirst().path("retry_count").asInt());
        }

        @Test
        void anAttemptLeftOpenWithoutATraceIsSentAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            scene.world.in(seconds(60), () -> {});

            scene.play();

            assertEquals(List.of("not_started", "succeeded"), scene.outcomes("a"));
        }

        @Test
        void aRowThatWasEditedAfterACrashRunsAnewAndTakesNoOldResult() throws Exception {
            var scene = new Scene(folder, "id,text\na,old\n");
            scene.crash(1);
            var next = new Scene(folder, "id,text\na,new\n");
            next.answer = Answer.inTurn(succeeded("run-8"));
            next.found = _ -> ended(succeeded("run-7"));

            next.play();

            assertEquals(List.of("stale", "succeeded"), next.outcomes("a"));
            assertEquals("new", next.sent.getFirst().row().inputs().get("text"));
            assertEquals(List.of("run-8"), next.resultRuns());
            assertTrue(next.said.getFirst().contains("was changed"), next.said.toString());
        }

        @Test
        void aRunOfAnEarlierStartIsWaitedForWithinTheTimeLimit() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.timeout = Duration.ofHours(1);
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(600));
                return succeeded("run-7");
            };
            scene.crash(1);
            scene.found = _ -> scene.looked.size() < 4 ? running("run-7") : ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("succeeded"), scene.outcomes("a"));
        }

        @Test
        void anAttemptLeftOpenForARowThatIsNoLongerInTheFileDoesNotMatter() throws Exception {
            var scene = Scene.of(folder, "gone", "b");
            scene.crash(1);
            var next = new Scene(folder, "id\nb\n");

            var stop = next.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(List.of("b"), next.resultIds());
        }

        @Test
        void fivePagesOfAFirewallInARowStopTheBatch() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            scene.answer = (_, _) -> html(403);

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains("firewall"), stop.why());
            assertEquals(List.of("a", "b", "c", "d", "e"), scene.retryIds());
        }

        @Test
        void aRunInBetweenMakesItNoFirewallThatRefusesAll() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            scene.answer = Answer.inTurn(html(403), html(403), html(403), succeeded("run-d"), html(403), html(403));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(List.of("a", "b", "c", "e", "f"), scene.retryIds());
        }

        @Test
        void aPausedRowIsLookedUpAndNotSentAgainUnlessAskedFor() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(ran("run-7", RunStatus.PAUSED, ""), succeeded("run-8"));
            scene.found = _ -> new Found.Running(run("run-7"), RunStatus.PAUSED);
            scene.play();
            assertEquals(List.of("a"), scene.retryIds());

            scene.play();

            assertEquals(List.of("paused", "paused"), scene.outcomes("a"));
            assertEquals(Optional.of("run-7"), scene.looked.getFirst().run().map(RunRef::id));
            assertEquals(1, scene.sent.size());
            scene.resendUnknown = true;

            scene.play();

            assertEquals(List.of("paused", "paused", "resent", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void aRowWhoseOldRunSaysRunningForEverIsSentAgainWhenAskedFor() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            scene.world.startAt(NOON.plusSeconds(3600));
            scene.answer = Answer.inTurn(succeeded("run-8"));
            scene.found = _ -> running("run-7");
            scene.play();
            assertEquals(List.of("unknown"), scene.outcomes("a"));
            scene.selection = Selection.named(List.of("a"), false);

            scene.play();

            assertEquals(List.of("run-8"), scene.resultRuns());
        }

        @Test
        void aPausedRowWhoseHumanHasAnsweredIsHarvested() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(ran("run-7", RunStatus.PAUSED, ""));
            scene.play();
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("paused", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of("a"), scene.resultIds());
        }

        @Test
        void anUnknownRowIsSentAgainWhenItsIdIsNamed() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.user = "nightly";
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            scene.play();
            scene.selection = Selection.named(List.of("a"), false);

            scene.play();

            assertEquals(List.of("unknown", "resent", "succeeded"), scene.outcomes("a"));
        }

        @Test
        void aPartialSuccessIsKeptAndFlagged() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(ran("run-a", RunStatus.PARTIAL, ""));

            scene.play();

            assertEquals("success", scene.results().getFirst().path("status").asText());
            assertEquals("partial-succeeded", scene.results().getFirst().path("workflow_status").asText());
            assertEquals(List.of("partial"), scene.outcomes("a"));
            assertEquals(1, scene.tally.count(Standing.PARTIAL));
            assertTrue(scene.tally.isAllDone());
        }

        @Test
        void betweenTheEndOfOneRequestAndTheStartOfTheNextPassesTheWait() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.wait = seconds(7);
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(2));
                return succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertEquals(List.of(NOON, NOON.plusSeconds(9), NOON.plusSeconds(18)),
                    scene.sent.stream().map(Attempt::at).toList());
        }

        @Test
        void startsAreSpreadEvenlyByTheRate() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            scene.slots = 4;
            scene.rate = new Rate(seconds(2));
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(30));
                return succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertEquals(List.of(NOON, NOON.plusSeconds(2), NOON.plusSeconds(4), NOON.plusSeconds(6)),
                    scene.sent.stream().map(Attempt::at).toList());
        }

        @Test
        void afterAProxyCutARunOffTheBatchGoesOnInStreams() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.mode = Mode.AUTO;
            scene.answer = Answer.byRow(Map.of("a", List.of(html(504))));
            scene.found = _ -> ended(succeeded("run-a"));

            scene.play();

            assertEquals(List.of(Mode.BLOCKING, Mode.STREAMING),
                    scene.sent.stream().map(Attempt::mode).toList());
            assertTrue(scene.said.getFirst().contains("streaming mode"), scene.said.toString());
            scene.sent.clear();
            var next = Scene.of(folder, "a", "b", "c");
            next.mode = Mode.AUTO;

            next.play();

            assertEquals(List.of(Mode.STREAMING), next.sent.stream().map(Attempt::mode).toList());
        }

        @Test
        void aServerThatRefusesEveryStreamIsGivenBlockingRuns() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            scene.mode = Mode.STREAMING;
            scene.slots = 4;
            scene.answer = (attempt, _) -> {
                if (attempt.mode() == Mode.STREAMING || scene.busy > 1) return THROTTLED;
                scene.world.pass(seconds(1));
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(6, scene.resultIds().size());
            assertEquals(1, scene.said.size());
            assertTrue(scene.said.getFirst().contains("blocking mode"), scene.said.toString());
            assertTrue(scene.log("throttle").size() < 12, "refused " + scene.log("throttle").size() + " times");
            assertEquals("blocking", scene.log("session").getLast().path("mode").asText());
        }

        @Test
        void aNewVersionInTheMiddleOfABatchIsSaidWithTheOptionThatPinsTheOldOne() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var newer = new Seen.Ran(run("run-b"), RunStatus.SUCCEEDED, "{}".getBytes(UTF_8), "",
                    "workflow-2", Usage.NONE);
            scene.answer = Answer.inTurn(succeeded("run-a"), newer);

            scene.play();

            assertTrue(scene.said.getFirst().contains("--workflow-id workflow-1"), scene.said.toString());
        }

        @Test
        void anErrorTextThatIsCutInTheMiddleOfAnEmojiStopsNothing() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = Answer.inTurn(failed("x".repeat(499) + "😀"), succeeded("run-b"));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertTrue(scene.error("a").startsWith("xxx"));
            assertEquals(List.of("b"), scene.resultIds());
            assertEquals(List.of("a"), scene.retryIds());
        }

        @Test
        void theLogExplainsEveryAttempt() throws Exception {
            Files.writeString(folder.resolve("results.jsonl.log"), "{\"event\":\"ses");
            var scene = new Scene(folder, "id,text\nstreamed,x\nfailing,x\nbusy,x\ncut,x\nlost,x\nhuman,x\nlast,x\n");
            scene.mode = Mode.STREAMING;
            var priced = new Seen.Ran(run("run-1"), RunStatus.SUCCEEDED, "{}".getBytes(UTF_8), "",
                    "workflow-1", new Usage(1.25, 120, 3, Optional.of(new BigDecimal("0.0018")), "USD"));
            scene.backoff = new Backoff(Duration.ZERO, Duration.ZERO, 1);
            var answers = Answer.byRow(Map.of("streamed", List.of(priced),
                    "failing", List.of(failed("Rate Limit Error"), failed("no such city")),
                    "busy", List.of(THROTTLED), "cut", List.of(cut(Symptom.CUT, run("run-4"))),
                    "lost", List.of(cut(Symptom.CUT)),
                    "human", List.of(ran("run-6", RunStatus.PAUSED, ""))));
            scene.answer = (attempt, told) -> {
                if (attempt.row().id().equals("last")) return scene.untilStopped(run("run-7"), told);
                if (attempt.row().id().equals("streamed")) told.began(run("run-1"), Duration.ZERO);
                return answers.to(attempt, told);
            };
            scene.found = doubt -> switch (doubt.attempt().row().id()) {
                case "lost" -> ABSENT;
                case "failing" -> ended(failed("Rate Limit Error"));
                default -> ended(succeeded("run-4"));
            };
            scene.settle = new Settle(Duration.ZERO, Duration.ZERO);
            scene.interruptAfter(seconds(10));
            scene.play();
            scene.answer = answers;
            scene.found = doubt -> doubt instanceof Doubt.Late ? ended(succeeded("run-5"))
                    : new Found.Running(run("run-6"), RunStatus.PAUSED);

            scene.play();

            var log = Files.readString(scene.file(".log"));
            Golden.check("log.txt", log.replaceAll("\"t\":\"[^\"]*\"", "\"t\":\"TIME\"")
                    .replaceAll("difyexec-[0-9a-f]{16}-", "difyexec-RANDOM-"));
            assertFalse(log.contains("\"x\""), "the log holds no inputs");
        }
    }

    /// With rows whose outputs hold files that are to be kept.
    @Nested
    class FilesOfOutputs {
        @TempDir Path folder;

        private static final Fetched AWAY = new Fetched.Missing("HTTP 503", true);
        private static final Fetched DEAD = new Fetched.Missing("HTTP 403", false);

        /// A run with so many files, in `out`.
        private static Seen.Ran with(int files, String id) {
            return succeeded("run-" + id).with(IntStream.rangeClosed(1, files).mapToObj(n -> new OutputFile(
                    "http://h/" + id + n, 0, Path.of("out", id + "-" + n + ".txt"))).toList());
        }

        private Scene scene(String... ids) throws IOException {
            var scene = Scene.of(folder, ids);
            scene.answer = (attempt, _) -> with(1, attempt.row().id());
            return scene;
        }

        private static List<String> files(JsonNode result) {
            return StreamSupport.stream(result.path("files").spliterator(), false).map(JsonNode::asText).toList();
        }

        @Test
        void areThereBeforeTheRowCountsAsDone() throws Exception {
            var scene = scene("a");
            scene.answer = (_, _) -> with(3, "a");
            var onDisk = new ArrayList<Boolean>();
            scene.fetched = file -> {
                onDisk.add(Files.exists(scene.output));
                return new Fetched.There(Path.of(file.place() + "~2"));
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of(false, false, false), onDisk);
            assertEquals(List.of("out/a-1.txt~2", "out/a-2.txt~2", "out/a-3.txt~2"), files(scene.results().getFirst()));
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertTrue(scene.tally.isAllDone());
        }

        @Test
        void areTriedAgainWithBackOffWhileTheirRowsPlaceIsFree() throws Exception {
            var scene = scene("a", "b", "c");
            scene.backoff = new Backoff(seconds(10), seconds(60), 0);
            scene.fetched = file -> file.link().contains("a1") && scene.fetches.size() < 5 ? AWAY
                    : new Fetched.There(file.place());
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(2));
                return with(1, attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("b", "c", "a"), scene.resultIds());
            assertEquals(List.of("out/a-1.txt"), files(scene.results().getLast()));
            assertEquals(1, scene.busiest);
            assertTrue(scene.world.passed().compareTo(seconds(12)) > 0, "a's file has waited");
            var seconds = scene.log("end").stream().map(end -> end.path("seconds").asDouble()).toList();
            assertEquals(List.of(2.0, 2.0, 2.0), seconds, "a row's time is that of its run");
        }

        @Test
        void areGivenUpWhenTheirLinksAreDeadAndEachIsTold() throws Exception {
            var scene = scene("a", "b");
            scene.fetched = file -> file.link().contains("a") ? AWAY : DEAD;
            scene.answer = (attempt, _) -> with(2, attempt.row().id());

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("b", "a"), scene.resultIds(), "a run that is paid for is kept");
            assertEquals(List.of(), scene.retryIds());
            assertFalse(scene.tally.isAllDone());
            assertEquals("4 files of 2 rows could not be fetched (b, a): see 'missing' in the log; 'retry --force ID' "
                    + "runs such a row anew", scene.tally.missingFiles().toString());
            assertEquals(List.of("b-1.txt", "b-2.txt", "a-1.txt", "a-2.txt"), Scene.texts("file",
                    scene.log("missing")));
            assertEquals(List.of("HTTP 403", "HTTP 403", "HTTP 503", "HTTP 503"), Scene.texts("why",
                    scene.log("missing")));
            assertEquals(1, scene.said.stream().filter(said -> said.contains("could not be fetched")).count());
            assertTrue(scene.fetches.size() > 10, "again and again");
            assertTrue(scene.world.passed().compareTo(seconds(300)) < 0, scene.world.passed().toString());
            assertTrue(scene.world.passed().compareTo(seconds(200)) > 0, scene.world.passed().toString());
        }

        @Test
        void takeThePlacesOfRowsThatWouldStart() throws Exception {
            var ids = IntStream.range(0, 12).mapToObj(n -> "row" + n).toArray(String[]::new);
            var scene = scene(ids);
            scene.slots = 3;
            scene.fetchTakes = seconds(5);
            var together = new ArrayList<Integer>();
            scene.answer = (attempt, _) -> {
                together.add(scene.busy + scene.fetching);
                scene.world.pass(seconds(1));
                return with(2, attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(12, scene.resultIds().size());
            assertTrue(Collections.max(together) <= 3, together.toString());
            assertEquals(3, scene.mostFetches);
        }

        @Test
        void keepRowsFromStartingOnceManyWaitForTheirs() throws Exception {
            var ids = IntStream.range(0, 600).mapToObj(n -> "row" + n).toArray(String[]::new);
            var scene = scene(ids);
            scene.backoff = new Backoff(seconds(200), seconds(200), 0);
            scene.fetched = _ -> AWAY;
            scene.interruptAfter(seconds(50));

            scene.play();

            assertEquals(501, scene.sent.size());
            assertEquals(501, scene.resultIds().size());
        }

        @Test
        void areFetchedForARunThatWasLookedUp() throws Exception {
            var scene = scene("a");
            scene.answer = Answer.inTurn(cut(Symptom.CUT, run("run-a")));
            scene.found = _ -> ended(with(1, "a"));

            scene.play();

            assertEquals(List.of("out/a-1.txt"), files(scene.results().getFirst()));
        }

        @Test
        void areFetchedByTheNextCallWhenThisOneDies() throws Exception {
            var scene = scene("a");
            scene.fetched = _ -> {
                throw new IllegalStateException("the power fails");
            };
            assertThrows(IllegalStateException.class, scene::play);
            assertEquals(List.of(), scene.log("end"));
            var next = scene("a");
            next.found = _ -> ended(with(1, "a"));

            next.play();

            assertEquals(0, next.sent.size());
            assertEquals(List.of("out/a-1.txt"), files(next.results().getFirst()));
        }

        /// One file is there, one waits for another try, one is on its way.
        private Scene halfDone() throws Exception {
            var scene = scene("a", "b");
            scene.backoff = new Backoff(seconds(200), seconds(200), 0);
            scene.answer = (_, _) -> with(3, "a");
            scene.fetched = file -> {
                try {
                    if (file.link().endsWith("3")) scene.world.pass(seconds(600));
                } catch (InterruptedException problem) {
                    throw new IllegalStateException(problem);
                }
                return file.link().endsWith("2") ? AWAY : new Fetched.There(file.place());
            };
            scene.interruptAfter(seconds(1));
            return scene;
        }

        private static void isKeptWithWhatIsThere(Scene scene) throws IOException {
            assertEquals(List.of("out/a-1.txt"), files(scene.results().getFirst()));
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(Map.of("a-2.txt", "HTTP 503", "a-3.txt", "the call ended first"), scene.log("missing").stream()
                    .collect(Collectors.toMap(line -> line.path("file").asText(), line -> line.path("why").asText())));
        }

        @Test
        void haveTheGraceAfterAnInterruptAndThenTheResultIsKeptWithoutThem() throws Exception {
            var scene = halfDone();

            assertEquals(INTERRUPTED, scene.play().orElseThrow().code());

            isKeptWithWhatIsThere(scene);
            assertEquals(seconds(21), scene.world.passed());
            assertEquals(List.of("a"), scene.ids());
        }

        @Test
        void areLeftAtASecondInterrupt() throws Exception {
            var scene = halfDone();
            scene.interruptAfter(seconds(2));

            assertEquals(INTERRUPTED, scene.play().orElseThrow().code());

            isKeptWithWhatIsThere(scene);
            assertTrue(scene.world.passed().compareTo(seconds(4)) < 0, scene.world.passed().toString());
        }
    }

    @Nested
    class TheNames {
        @Test
        void noTwoAttemptsOfTwoStartsShareAUser() {
            var first = new Names(null);
            var second = new Names("");

            var users = Stream.of(first.next(), first.next(), second.next()).map(Names.Name::user).toList();

            assertEquals(3, Set.copyOf(users).size());
            users.forEach(user -> assertTrue(user.matches("difyexec-[0-9a-f]{16}-[12]"), user));
        }

        @Test
        void aFixedUserIsTakenAsItIs() {
            var names = new Names("nightly");

            assertEquals("nightly", names.next().user());
            assertEquals(2, names.next().sequence());
            assertFalse(Names.isUnique("nightly"));
        }
    }

    @Nested
    class TheSession {
        @TempDir Path folder;

        @Test
        void theRetryListIsWholeAlsoWhenTheBatchStopsEarly() throws IOException {
            var csv = Files.writeString(folder.resolve("data.csv"), "id,text\na,[fail]\nb,[fail]\nc,x\n");
            var output = folder.resolve("results.jsonl");
            var err = new StringWriter();

            int code = commandLine(Env.of(Map.of())).setErr(new PrintWriter(err))
                    .execute("run", "--demo", "-i", csv.toString(), "-o", output.toString(), "-c", "1",
                            "--max-failures", "2", "--progress", "off");

            assertEquals(STOPPED, code, err.toString());
            assertEquals(List.of("a", "b"), Files.readAllLines(folder.resolve("results.jsonl.retry")));
        }
    }

    // ── Data ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheData {
        /// `succeeded A`, `failed A`, `error`, parted by commas.
        private static List<Seen> ends(String words) {
            return Stream.of(words.split(", ")).<Seen>map(word -> switch (word) {
                case "error" -> Seen.Refused.event(500, "", "boom", Optional.empty());
                default -> ran(word.substring(word.length() - 1), RunStatus.of(word.split(" ")[0])
                        .orElseThrow(), "");
            }).toList();
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', nullValues = "-", textBlock = """
                began with | told                     | seen as   | of run | because
                A          | succeeded A              | Ran       | A      | -
                A          | succeeded A, succeeded A | Ran       | A      | -
                A          | failed A, error          | Ran       | A      | -
                A          | paused A                 | Ran       | A      | -
                A          | succeeded B              | Cut       | A      | another run
                A          | failed B                 | Cut       | A      | another run
                A          | failed A, succeeded A    | Cut       | A      | two ends
                A          | succeeded A, failed A    | Cut       | A      | two ends
                A          | paused A, succeeded A    | Cut       | A      | two ends
                A          | succeeded A, succeeded B | Cut       | A      | two ends
                A          | succeeded A, error       | Cut       | A      | two ends
                -          | error                    | Refused   | -      | -
                A          | error                    | Refused   | A      | -
                A          | error, succeeded A       | Refused   | A      | -
                A          | error, failed B          | Refused   | A      | -
                """)
        void aStreamsEndIsBelievedIfItIsOfItsRunAndTheOnlyOne(String began, String told, String kind, String run,
                String why) {
            var seen = Seen.told(Optional.ofNullable(began).map(id -> run(id)), ends(told));

            assertEquals(kind, seen.getClass().getSimpleName());
            assertEquals(Optional.ofNullable(run), seen.run().map(RunRef::id));
            if (seen instanceof Seen.Cut(_, var symptom, var because)) {
                assertEquals(Symptom.CONTRADICTED, symptom);
                assertTrue(because.contains(why), because);
            }
        }

        @Test
        void theTaskOfARunMayBeLearntAtItsEnd() {
            var began = Optional.of(new RunRef("A", ""));

            assertInstanceOf(Seen.Ran.class, Seen.told(began, ends("succeeded A")));
        }

        @Test
        void aRowKeepsTheOrderOfItsColumnsAndCannotBeChanged() {
            var cells = new LinkedHashMap<String, String>();
            for (var name : List.of("id", "zebra", "apple", "mango")) cells.put(name, name);
            var row = new Row(0, 2, "id", cells);

            assertEquals(List.of("id", "zebra", "apple", "mango"), List.copyOf(row.inputs().keySet()));
            assertThrows(UnsupportedOperationException.class, () -> row.inputs().put("id", "other"));
            assertThrows(IllegalArgumentException.class, () -> new Row(0, 2, " ", cells));
        }

        @Test
        void anEditedRowKnowsWhatTheCsvHas() {
            var inCsv = new Row(0, 2, "a", Map.of("id", "a", "text", "x"));

            var edited = inCsv.with(Map.of("text", "y"));

            assertEquals(Cells.hash(Map.of("id", "a", "text", "y")), edited.hash());
            assertEquals(List.of(true, inCsv.hash()), List.of(edited.isEdited(), edited.original()));
            for (var same : List.of(inCsv, inCsv.with(Map.of("text", "x")), edited.with(Map.of("text", "x"))))
                assertEquals(List.of(false, "", inCsv.hash()), List.of(same.isEdited(), same.original(), same.hash()));
        }

        @Test
        void streamsSettleLongerThanBlockingRunsUnlessOneTimeIsGiven() {
            assertEquals(seconds(30), Settle.DEFAULT.of(Mode.BLOCKING));
            assertEquals(seconds(300), Settle.DEFAULT.of(Mode.STREAMING));
            assertEquals(seconds(7), new Settle(seconds(7), seconds(7)).of(Mode.STREAMING));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                word,              status
                succeeded,         SUCCEEDED
                partial-succeeded, PARTIAL
                failed,            FAILED
                stopped,           STOPPED
                paused,            PAUSED
                running,           RUNNING
                scheduled,         RUNNING
                something-new,     -
                """)
        void aRunStatusIsReadByDifysWord(String word, RunStatus status) {
            assertEquals(Optional.ofNullable(status), RunStatus.of(word));
        }

        @ParameterizedTest
        @EnumSource(Standing.class)
        void aStandingIsFoundByTheWordThatTheLogHasForIt(Standing standing) {
            assertEquals(Optional.of(standing), Standing.of(standing.word()));
        }

        @Test
        void theRetryListHoldsWhatFailedIsPausedOrUnknown() {
            var listed = Stream.of(Standing.values()).filter(Standing::isOnRetryList)
                    .map(Standing::word).toList();

            assertEquals(List.of("failed", "paused", "unknown"), listed);
        }

        @Test
        void onlyARunOverItsTimeWithAKnownTaskIsStoppedAndOnlyBeforeItsFirstLook() {
            var late = doubt(attempt(0, 0), cut(Symptom.TIMED_OUT, run("run-1")), 0);
            var nameless = doubt(attempt(0, 0), cut(Symptom.TIMED_OUT, new RunRef("run-1", "")), 0);
            var cut = doubt(attempt(0, 0), cut(Symptom.CUT, run("run-1")), 0);

            assertTrue(late.stopsFirst());
            assertFalse(late.later(NOON).stopsFirst());
            assertFalse(nameless.stopsFirst());
            assertFalse(cut.stopsFirst());
        }

        @Test
        void lookUpsFollowEachOtherEverMoreSlowly() {
            var doubt = doubt(attempt(0, 0), cut(Symptom.CUT), 300);
            var pauses = new ArrayList<Duration>();
            for (int look = 0; look < 20; look++) {
                doubt = doubt.later(NOON);
                pauses.add(Duration.between(NOON, doubt.due()));
            }

            assertEquals(Duration.ofMillis(500), pauses.getFirst());
            assertEquals(seconds(15), pauses.getLast());
            assertEquals(pauses.stream().sorted().toList(), pauses);
        }

        @Test
        void theLastLookUpIsAtTheDeadline() {
            var doubt = doubt(attempt(0, 0), cut(Symptom.CUT), 1);
            for (int look = 0; look < 8; look++) doubt = doubt.later(NOON);

            assertEquals(NOON.plusSeconds(1), doubt.due());
            assertTrue(doubt.later(NOON.plusSeconds(1)).due().isAfter(NOON.plusSeconds(9)));
        }

        @Test
        void theFirstWordOfARunsStartCounts() {
            var doubt = doubt(attempt(0, 0), cut(Symptom.CUT), 40);

            var known = doubt.begun(Optional.of(NOON.plusSeconds(3)), NOON.plusSeconds(9), seconds(40))
                    .begun(Optional.of(NOON.plusSeconds(5)), NOON.plusSeconds(9), seconds(40));

            assertEquals(NOON.plusSeconds(43), known.deadline());
            assertEquals(NOON.plusSeconds(3), known.start());
            assertEquals(doubt, doubt.begun(Optional.empty(), NOON.plusSeconds(9), seconds(40)));
        }
    }

    @Nested
    class TheTally {
        private final World world = new World();
        private final Tally tally = new Tally(10, world.clock);

        private void end(Outcome outcome) {
            tally.ended(attempt(0, 0), outcome, seconds(1), world.now());
        }

        private void pass(Duration time) {
            world.mailbox.clear();
            try {
                world.mailbox.poll(time.toNanos(), TimeUnit.NANOSECONDS);
            } catch (InterruptedException problem) {
                throw new IllegalStateException(problem);
            }
        }

        @Test
        void countsEachOutcomeByItself() {
            end(new Outcome.Succeeded());
            end(new Outcome.Succeeded());
            end(new Outcome.Partial());
            end(new Outcome.Failed("no", false));
            end(new Outcome.Paused(run("r"), "waits"));
            end(new Outcome.Unknown("who knows"));

            assertEquals(6, tally.done());
            assertEquals(3, tally.succeeded());
            assertEquals(2, tally.count(Standing.SUCCEEDED));
            assertEquals(1, tally.count(Standing.UNKNOWN));
            assertFalse(tally.isAllDone());
        }

        @Test
        void isAllDoneOnlyWhenEveryRowAskedForSucceeded() {
            for (int row = 0; row < 9; row++) end(new Outcome.Succeeded());
            assertFalse(tally.isAllDone());

            end(new Outcome.Partial());

            assertTrue(tally.isAllDone());
        }

        @Test
        void theTimeLeftFollowsTheRateOfTheLastRows() {
            assertEquals(Optional.empty(), tally.eta());
            pass(seconds(100)); // a slow start
            for (int row = 0; row < 5; row++) {
                end(new Outcome.Succeeded());
                pass(seconds(2));
            }

            assertEquals(0.4, tally.rate(), 0.001);
            assertEquals(Optional.of(seconds(13)), tally.eta().map(time -> seconds(time.toSeconds() + 1)));
            assertEquals(seconds(110), tally.elapsed());
        }
    }

    @Nested
    class TheLatencies {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                rows, p50,   p90,   p99,   max
                1,    0.001, 0.001, 0.001, 0.001
                2,    0.001, 0.002, 0.002, 0.002
                10,   0.005, 0.009, 0.010, 0.010
                100,  0.050, 0.090, 0.099, 0.100
                1000, 0.500, 0.900, 0.990, 1.000
                """)
        void aPercentileIsTheSmallestValueThatSoManyDoNotExceed(int rows, double p50, double p90, double p99,
                double max) {
            var latencies = new Latencies();
            IntStream.rangeClosed(1, rows).map(n -> rows + 1 - n).forEach(latencies::add);

            var seen = latencies.percentiles(0.5, 0.9, 0.99, 1);

            assertArrayEquals(new double[] {p50, p90, p99, max}, seen, 0.0000001);
        }

        @Test
        void aTimeBeyondAllBoundsIsKeptAsTheLongest() {
            var latencies = new Latencies();
            assertTrue(latencies.isEmpty());

            latencies.add(Long.MAX_VALUE);

            assertEquals(Integer.MAX_VALUE / 1000.0, latencies.percentiles(1)[0]);
        }
    }

    // ── Rules ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheJudge {
        private final Judge judge = new Judge(BACKOFF, RetryRuns.TRANSIENT, ACCESS);

        /// A word for a verdict: what becomes of the row, or `stop`.
        private static String word(Verdict verdict) {
            return switch (verdict) {
                case Verdict.Done(var outcome) -> outcome.standing().word();
                case Verdict.Again _ -> "again";
                case Verdict.Throttled _ -> "throttled";
                case Verdict.Unreached _ -> "unreached";
                case Verdict.LookUp _ -> "look up";
                case Verdict.StopBatch _ -> "stop";
            };
        }

        private static String said(Verdict verdict) {
            return switch (verdict) {
                case Verdict.Done(var outcome) -> outcome.text();
                case Verdict.Again(_, var why) -> why;
                case Verdict.Throttled(_, var why) -> why;
                case Verdict.Unreached(_, var why) -> why;
                case Verdict.LookUp(_, var why) -> why;
                case Verdict.StopBatch(var why) -> why;
            };
        }

        /// What Dify itself answers, with a code or without; the last column is what the user must be told.
        @ParameterizedTest(name = "{0} {1} {2}: {3}")
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                status | code                        | message                          | verdict   | says
                400    | invalid_param               | Too many requests. Please try ag | throttled | Too many
                429    | too_many_requests           | Too many requests. Please try ag | throttled | Too many
                429    | too_many_requests           | anything                         | throttled |
                503    | invalid_param               | Too many requests. Please try ag | throttled |
                429    | rate_limit_error            | Workflow execution quota limit r | stop      | quota
                429    | rate_limit_error            | Rate limit exceeded, please upgr | stop      | next day
                400    | invalid_param               | Workflow not published           | stop      | publish
                400    | app_unavailable             | App unavailable, please check yo | stop      | publish
                400    | not_workflow_app            | Please check if your app mode ma | stop      | workflow app
                400    | invalid_param               | Arg user must be provided.       | stop      | newer
                400    | invalid_param               | 1 validation error for WorkflowR | stop      | newer
                400    |                             | Input payload validation failed  | stop      | newer
                400    | invalid_param               | No class mapping found for node  | stop      | node
                400    | invalid_param               | queue listening stopped unexpect | look up   |
                400    | bad_request                 | Invalid workflow_id format: 'x'. | stop      | DIFY_WORKFLOW_ID
                400    | bad_request                 | Cannot use draft workflow versio | stop      | leave it empty
                404    | not_found                   | Workflow not found with id: x    | stop      | DIFY_WORKFLOW_ID
                404    | not_found                   | Workflow not found with id: x. Y | stop      | leave it empty
                400    | bad_request                 | The browser (or proxy) sent a re | stop      | request
                400    | provider_not_initialize     | No valid model provider credenti | stop      | model provider
                400    | model_currently_not_support | Dify Hosted OpenAI trial current | stop      | model provider
                400    | provider_quota_exceeded     | Your quota for Dify Hosted OpenA | stop      | credit
                400    | completion_request_error    | Completion request failed.       | again     |
                401    | unauthorized                | Access token is invalid          | stop      | DIFY_API_KEY
                401    | unauthorized                | Authorization header must be pro | stop      | DIFY_API_KEY
                403    | forbidden                   | The app's API service has been d | stop      | API service
                403    | forbidden                   | The workspace's status is archiv | stop      | owner
                403    | forbidden                   | The app no longer exists.        | stop      | no longer exists
                403    | workflow_version_execution_not_allowed | Not on this plan.     | stop      | DIFY_WORKFLOW_ID
                404    | not_found                   | The requested URL was not found  | stop      | DIFY_API_BASE_URL
                404    |                             | 404 Not Found                    | stop      | DIFY_API_BASE_URL
                405    | method_not_allowed          | The method is not allowed        | stop      | address
                415    | unsupported_media_type      | Did not attempt to load JSON dat | stop      | address
                413    | file_too_large              |                                  | failed    | too large
                413    | file_too_large              | File size exceeded. {message}    | failed    | File size
                500    | internal_server_error       | The server encountered an intern | look up   |
                500    | unknown                     | Internal Server Error            | look up   |
                400    | invalid_param               | name is required in input form   | failed    | is required
                400    | invalid_param               | (type 'text-input') x in input f | failed    | (type
                400    | invalid_param               | x in input form must be less tha | failed    | less
                400    | invalid_param               | x in input form must be one of t | failed    |
                400    | invalid_param               | x in input form must be a valid  | failed    |
                400    | invalid_param               | x in input form must be a valid  | failed    |
                400    | invalid_param               | x in input form must be a dict   | failed    |
                400    | invalid_param               | Invalid input type for ['x']     | failed    |
                400    | invalid_param               | x in input form must be a list o | failed    |
                400    | invalid_param               | transfer_method is required in f | failed    |
                400    | invalid_param               | 'ftp' is not a valid FileTransfe | failed    |
                400    | invalid_param               | No matching enum found for value | failed    |
                400    | invalid_param               | Invalid upload file id format    | failed    |
                400    | invalid_param               | Invalid file url                 | failed    |
                400    | invalid_param               | Detected file type does not matc | failed    |
                400    | invalid_param               | File validation failed for file: | failed    |
                400    | invalid_param               | Reached maximum retries (3) for  | failed    |
                400    | invalid_param               |                                  | failed    | HTTP 400
                400    | something_new               | a text of a later version        | failed    | a text of a later
                418    |                             | I'm a teapot                     | failed    | HTTP 418
                408    |                             | Request Timeout                  | look up   |
                """)
        void whatDifyAnswersIsDecidedByStatusCodeAndTheStartOfTheMessage(int status, String code, String message,
                String verdict, String says) {
            var seen = judge.verdict(attempt(0, 0),
                    http(status, Objects.toString(code, ""), Objects.toString(message, "")));

            assertEquals(verdict, word(seen));
            assertTrue(said(seen).contains(Objects.toString(says, "")), said(seen));
        }

        /// What something in front of Dify answers: a page, and no `X-Version`.
        @ParameterizedTest(name = "{0}: {1}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status, verdict,   says
                301,    stop,      DIFY_API_BASE_URL
                302,    stop,      DIFY_API_BASE_URL
                308,    stop,      DIFY_API_BASE_URL
                400,    failed,    a page
                403,    failed,    a page
                404,    stop,      DIFY_API_BASE_URL
                405,    stop,      address
                407,    stop,      HTTPS_PROXY
                408,    look up,   408
                413,    failed,    too large
                429,    throttled, a page
                500,    look up,   500
                502,    look up,   502
                503,    look up,   503
                504,    look up,   504
                520,    look up,   520
                524,    look up,   524
                """)
        void whatAProxyAnswersIsDecidedByTheStatus(int status, String verdict, String says) {
            var seen = judge.verdict(attempt(0, 0), html(status));

            assertEquals(verdict, word(seen));
            assertTrue(said(seen).contains(says), said(seen));
        }

        /// The `error` event of a stream: with a code it counts as the same answer would; without one, by its text.
        @ParameterizedTest(name = "{0} {1} {2}: {3}")
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                status | code                     | message                                         | verdict
                400    | invalid_param            | Too many requests. Please try again later.      | throttled
                400    | invalid_param            | name is required in input form                  | failed
                400    | provider_not_initialize  | No valid model provider credentials found       | stop
                400    | provider_quota_exceeded  | Your quota has been exhausted.                  | stop
                400    | completion_request_error | Completion request failed.                      | again
                500    | internal_server_error    | Internal Server Error, please contact support.  | look up
                500    |                          | name is required in input form                  | failed
                500    |                          | (type 'text-input') x in input form must be a   | failed
                500    |                          | x in input form must be less than 48 characters | failed
                500    |                          | x in input form must be one of the following:   | failed
                500    |                          | x in input form must be a valid number          | failed
                500    |                          | expected value type int, float or str, got      | failed
                500    |                          | x in input form must be a dict                  | failed
                500    |                          | Invalid input type for ['x']                    | failed
                500    |                          | this statement should be unreachable.           | failed
                500    |                          | x in input form must be a file                  | failed
                500    |                          | x in input form must be less than 5 files       | failed
                500    |                          | transfer_method is required in file mapping     | failed
                500    |                          | 'ftp' is not a valid FileTransferMethod         | failed
                500    |                          | Invalid upload file id                          | failed
                500    |                          | Invalid upload file                             | failed
                500    |                          | Invalid file url                                | failed
                500    |                          | Detected file type does not match the specified | failed
                500    |                          | File validation failed for file: a.pdf          | failed
                500    |                          | Reached maximum retries (3) for URL http://x    | failed
                500    |                          | Too many requests. Please try again later.      | throttled
                500    |                          | 'NoneType' object has no attribute 'id'         | look up
                500    |                          |                                                 | look up
                """)
        void anErrorInAStreamIsDecidedByItsCodeElseByItsText(int status, String code, String message, String verdict) {
            var seen = judge.verdict(attempt(0, 0), Seen.Refused.event(status, Objects.toString(code, ""),
                    Objects.toString(message, ""), Optional.empty()));

            assertEquals(verdict, word(seen));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                status    | error                                                      | verdict
                SUCCEEDED |                                                            | succeeded
                PARTIAL   |                                                            | partial
                FAILED    | division by zero                                           | failed
                FAILED    | Aborted: Maximum execution steps exceeded: 501 > 500       | failed
                FAILED    | Aborted: Maximum execution time exceeded: 1200.51s > 1200s | failed
                FAILED    | Aborted: User requested stop                               | failed
                FAILED    |                                                            | failed
                STOPPED   | Stopped by user.                                           | look up
                PAUSED    |                                                            | paused
                RUNNING   |                                                            | look up
                """)
        void aRunIsDecidedByItsStatusAndNotByHttp200(RunStatus status, String error, String verdict) {
            var seen = judge.verdict(attempt(0, 0), ran("run-1", status, Objects.toString(error, "")));

            assertEquals(verdict, word(seen));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                error                                                               | never  | transient | always
                [openai] Rate Limit Error, 429 Too Many Requests                    | failed | again     | again
                [openai] Server Unavailable Error, 503                              | failed | again     | again
                [anthropic] Connection Error, Connection aborted.                   | failed | again     | again
                [tongyi] The engine is currently overloaded, please try again later | failed | again     | again
                Reached maximum retries (0) for URL http://x                        | failed | again     | again
                Reached maximum retries for URL http://x                            | failed | again     | again
                The read operation timed out                                        | failed | again     | again
                Request timeout: deadline exceeded                                  | failed | again     | again
                [Errno 111] Connection refused                                      | failed | again     | again
                division by zero                                                    | failed | failed    | again
                JSON object for 'V' does not match schema: 5 is not of type 'string'| failed | failed    | again
                [openai] Authorization Error, 401 Incorrect API key provided        | failed | failed    | again
                """)
        void aFailedRunIsTriedAgainAsAskedFor(String error, String never, String transientOnly, String always) {
            var seen = Stream.of(RetryRuns.NEVER, RetryRuns.TRANSIENT, RetryRuns.ALWAYS)
                    .map(when -> new Judge(BACKOFF, when, ACCESS))
                    .map(asked -> word(asked.afterLook(attempt(0, 0), failed(error)))).toList();

            assertEquals(List.of(never, transientOnly, always), seen);
        }

        private static Seen.Ran failedAfter(int steps, String error, String outputs) {
            return new Seen.Ran(run("run-1"), RunStatus.FAILED, outputs.getBytes(UTF_8),
                    Objects.toString(error, ""), "workflow-1",
                    new Usage(0, 0, steps, Optional.empty(), ""));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                error                                         | steps | outputs | never   | transient | always
                Rate Limit Error                              | 3     | {}      | failed  | look up   | look up
                Rate Limit Error                              | 0     | {}      | look up | look up   | look up
                division by zero                              | 3     | {}      | failed  | failed    | look up
                division by zero                              | 0     | {"a":1} | failed  | failed    | look up
                Workflow stream ended without a terminal even | 0     | {}      | look up | look up   | look up
                name is required in input form                | 0     | {}      | look up | look up   | look up
                Aborted: User requested stop                  | 3     | {}      | failed  | failed    | look up
                                                              | 0     | {}      | look up | look up   | look up
                """)
        void aFailureThatWouldBePaidForAgainOrLooksMadeUpIsConfirmedFirst(String error, int steps, String outputs,
                String never, String transientOnly, String always) {
            var seen = Stream.of(RetryRuns.NEVER, RetryRuns.TRANSIENT, RetryRuns.ALWAYS)
                    .map(when -> new Judge(BACKOFF, when, ACCESS))
                    .map(asked -> word(asked.verdict(attempt(0, 0), failedAfter(steps, error, outputs)))).toList();

            assertEquals(List.of(never, transientOnly, always), seen);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                mode      | steps | error                                                | verdict   | never
                STREAMING | 0     | name is required in input form                       | failed    | failed
                STREAMING | 0     | Reached maximum retries (3) for URL http://x         | failed    | failed
                STREAMING | 0     | Too many requests. Please try again later.           | throttled | throttled
                STREAMING | 0     | [Errno 111] Connection refused                       | again     | look up
                STREAMING | 0     | Workflow stream ended without a terminal event       | look up   | look up
                STREAMING | 0     |                                                      | look up   | look up
                STREAMING | 3     | Rate Limit Error                                     | again     | failed
                BLOCKING  | 0     | Rate Limit Error                                     | again     | failed
                BLOCKING  | 0     | division by zero                                     | failed    | failed
                """)
        void aFailureThatIsStoredNowhereIsDecidedByItsWords(Mode mode, int steps, String error, String verdict,
                String never) {
            var attempt = attempt(mode, Tries.NONE);
            var patient = new Judge(BACKOFF, RetryRuns.NEVER, ACCESS);

            assertEquals(verdict, word(judge.notStored(attempt, failedAfter(steps, error, "{}"))));
            assertEquals(never, word(patient.notStored(attempt, failedAfter(steps, error, "{}"))));
        }

        @Test
        void whatAlwaysRetriesSendsNothingAgainOnAMadeUpEndAlone() {
            var always = new Judge(BACKOFF, RetryRuns.ALWAYS, ACCESS);
            var streamed = attempt(Mode.STREAMING, Tries.NONE);

            assertEquals("look up", word(always.notStored(streamed, failedAfter(0, "no terminal event", "{}"))));
            assertEquals("failed", word(always.notStored(streamed, failedAfter(0, "x is required in input form", "{}"))));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                code                     | message                                    | not stored | stored as failed
                invalid_param            | No class mapping found for node type: x    | stop       | stop
                                         | name is required in input form             | failed     | failed
                                         | 'NoneType' object has no attribute 'id'    | look up    | again
                completion_request_error | Completion request failed.                 | again      | again
                internal_server_error    | Internal Server Error, please contact      | look up    | again
                """)
        void anErrorInTheStreamOfARunIsBelievedOnceTheRunWasAskedFor(String code, String message, String notStored,
                String stored) {
            int status = "internal_server_error".equals(code) || code == null ? 500 : 400;
            var error = Seen.Refused.event(status, Objects.toString(code, ""), message,
                    Optional.of(run("run-1")));

            assertEquals(Symptom.UNCONFIRMED, symptom(error));
            assertEquals(notStored, word(judge.notStored(attempt(0, 0), error)));
            assertEquals(stored, word(judge.confirmed(attempt(0, 0), error, failed("Rate Limit Error"))));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                tried, allowed, verdict
                0,     3,       again
                2,     3,       again
                3,     3,       failed
                4,     3,       failed
                0,     0,       failed
                """)
        void maxRetriesCountsFurtherAttempts(int tried, int allowed, String verdict) {
            var few = new Judge(new Backoff(seconds(1), seconds(60), allowed),
                    RetryRuns.TRANSIENT, ACCESS);

            assertEquals(verdict, word(few.afterLook(attempt(tried, 9), failed("Rate Limit Error"))));
            assertEquals(verdict, word(few.verdict(attempt(tried, 9), http(400, "completion_request_error", "no"))));
        }

        @Test
        void beingThrottledIsNeverTheEndOfARow() {
            assertEquals("throttled", word(judge.verdict(attempt(3, 1000), THROTTLED)));
        }

        @Test
        void whatWasNotSentWasNotReached() {
            var seen = new Seen.NotSent("connection refused");

            assertEquals("unreached", word(judge.verdict(attempt(3, 0), seen)));
        }

        @ParameterizedTest
        @EnumSource(Symptom.class)
        void whateverWasCutIsLookedUpFirst(Symptom symptom) {
            assertEquals(symptom, symptom(cut(symptom)));
        }

        private Symptom symptom(Seen seen) {
            return assertInstanceOf(Verdict.LookUp.class, judge.verdict(attempt(3, 0), seen)).symptom();
        }

        @Test
        void aLookUpIsForASymptom() {
            assertEquals(Symptom.SERVER_ERROR, symptom(http(500, "unknown", "Internal Server Error")));
            assertEquals(Symptom.SERVER_ERROR, symptom(http(400, "invalid_param", "queue listening stopped")));
            assertEquals(Symptom.GATEWAY, symptom(html(500)));
            assertEquals(Symptom.GATEWAY, symptom(html(504)));
            assertEquals(Symptom.STREAM_ERROR,
                    symptom(Seen.Refused.event(500, "", "no attribute 'id'", Optional.empty())));
            assertEquals(Symptom.STOPPED, symptom(ran("run-1", RunStatus.STOPPED, "")));
            assertEquals(Symptom.CUT, symptom(ran("run-1", RunStatus.RUNNING, "")));
            assertEquals(Symptom.UNCONFIRMED, symptom(failed("Rate Limit Error")));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                error                                                              | tried | verdict | says
                Aborted: Workflow stopped because the worker is shutting down.     | 0     | again   |
                Aborted: Workflow stopped because the worker is shutting down.     | 3     | failed  | shutting down
                Aborted: User requested stop                                       | 0     | failed  | User requested
                Aborted: Client response stream closed before app execution ended  | 0     | failed  | after a form
                Aborted: Maximum execution time exceeded: 1200.51s > 1200s         | 0     | failed  | --timeout
                Aborted: App execution exceeded 1200 seconds                       | 0     | failed  | --timeout
                """)
        void aStoppedRunIsOverUnlessItsWorkerWasShutDown(String error, int tried, String verdict, String says) {
            var judged = judge.afterLook(attempt(tried, 0), ran("run-1", RunStatus.STOPPED, error));

            assertEquals(verdict, word(judged));
            if (judged instanceof Verdict.Done(Outcome.Failed failed))
                assertTrue(failed.text().startsWith(error) && failed.text().contains(says), failed.text());
        }

        @Test
        void aRunWhoseWorkerWasShutDownIsNotSentAgainWhereFailedRunsAreNot() {
            var never = new Judge(BACKOFF, RetryRuns.NEVER, ACCESS);

            assertEquals("failed", word(never.afterLook(attempt(0, 0), ran("run-1", RunStatus.STOPPED,
                    "Aborted: Workflow stopped because the worker is shutting down."))));
        }

        @Test
        void afterALookAStoppedRunHasFailed() {
            var seen = judge.afterLook(attempt(0, 0), ran("run-1", RunStatus.STOPPED, ""));

            assertEquals("failed", word(seen));
            assertEquals("stopped on the server", said(seen));
        }

        @Test
        void anAnswerThatIsNotSentAgainAtOnceWaitsAsLongAsTheServerAsks() {
            var refused = Seen.Refused.http(429, false, "", "slow down", Optional.of(seconds(90)));

            var seen = assertInstanceOf(Verdict.Throttled.class, judge.verdict(attempt(0, 0), refused));

            assertEquals(seconds(90), seen.after());
        }

        @Test
        void theReportOfASchemaQuotesTheRowAndIsNotRepeated() {
            var report = "1 validation error for WorkflowRunPayload\ninputs\n  Input should be a valid dictionary "
                    + "[type=dict_type, input_value='my secret row', input_type=str]";

            var seen = judge.verdict(attempt(0, 0), http(400, "invalid_param", report));

            assertFalse(said(seen).contains("secret"), said(seen));
        }

        @Test
        void aRedirectNamesWhereItLeads() {
            var seen = judge.verdict(attempt(0, 0), http(308, "", "https://dify.example/v1/workflows/run"));

            assertTrue(said(seen).contains("https://dify.example/v1/workflows/run"), said(seen));
        }

        @Test
        void onlyAPageOfAFirewallCountsAsOne() {
            var page = (Verdict.Done) judge.verdict(attempt(0, 0), html(403));
            var large = (Verdict.Done) judge.verdict(attempt(0, 0), html(413));

            assertTrue(((Outcome.Failed) page.outcome()).firewall());
            assertFalse(((Outcome.Failed) large.outcome()).firewall());
        }

        @Test
        void aPausedRunKeepsItsId() {
            var paused = ran("run-1", RunStatus.PAUSED, "");

            var seen = (Verdict.Done) judge.verdict(attempt(0, 0), paused);

            assertEquals("run-1", ((Outcome.Paused) seen.outcome()).run().id());
        }
    }

    /// What a look leads to, in a few words: `,` parts what comes one after the other.
    @Nested
    class TheInquiry {
        private static final Here HERE = new Here(Listing.FROM_START, false, false);
        private static final Seen BARE = bare("Workflow stream ended without a terminal event");

        private final Inquiry inquiry = inquiry(false);

        private static Inquiry inquiry(boolean resendUnknown) {
            var limits = new Limits(null, null, seconds(20), seconds(300), Settle.DEFAULT);
            return new Inquiry(new Judge(BACKOFF, RetryRuns.TRANSIENT, ACCESS), limits,
                    resendUnknown);
        }

        private static String word(Step step, Instant now) {
            return switch (step) {
                case Step.Take(_, var verdict) -> "take " + TheJudge.word(verdict);
                case Step.Judged(_, var verdict) -> "judge " + TheJudge.word(verdict);
                case Step.LookAgain(var doubt) when doubt.due().equals(now.plusSeconds(2)) -> "look in 2 s";
                case Step.LookAgain _ -> "look";
                case Step.Say(_, var then) -> "say, " + word(then, now);
                case Step.Close(var end, _, _, var then) -> end + ", " + word(then, now);
                case Step.SendAgain(var tries, var rechecked) -> (rechecked ? "send" : "recheck")
                        + " " + tries.failed();
                case Step.GiveUp(_, var outcome) -> outcome.standing().word();
                case Step.StopBatch _ -> "stop";
                case Step.Nothing() -> "nothing";
            };
        }

        private String step(Doubt doubt, Found found, Listing listing, long seconds) {
            return word(inquiry.step(doubt, found, new Here(listing, false, false), NOON.plusSeconds(seconds)),
                    NOON.plusSeconds(seconds));
        }

        private String step(Doubt doubt, Found found) {
            return step(doubt, found, Listing.FROM_START, 10);
        }

        private static Seen.Ran bare(String error) {
            return new Seen.Ran(run("run-1"), RunStatus.FAILED, "{}".getBytes(UTF_8), error, "",
                    Usage.NONE);
        }

        private static Doubt.NoEnd doubt(Symptom symptom, Attempt attempt, boolean known) {
            Seen seen = symptom == Symptom.UNCONFIRMED ? BARE
                    : known ? cut(symptom, run("run-1")) : cut(symptom);
            return new Doubt.NoEnd(attempt, seen, symptom, symptom.text, NOON, NOON.plusSeconds(300));
        }

        private static Doubt.NoEnd doubt(Symptom symptom) {
            return doubt(symptom, attempt(0, 0), true);
        }

        /// Of other cells than its row has now; `csv` is the hash of the row as the CSV had it, if it had been edited.
        private static Attempt stale(Kind kind, String csv) {
            return new Attempt(0, row("a"), Tries.NONE, attempt(0, 0).user(), Mode.BLOCKING,
                    "0123456789abcdef", NOON, kind, csv);
        }

        private static Found found(RunStatus status) {
            return switch (status) {
                case RUNNING, PAUSED -> new Found.Running(run("run-1"), status);
                case SUCCEEDED, PARTIAL, FAILED, STOPPED -> ended(ran("run-1", status,
                        status.isSuccess() ? "" : "no such city"));
            };
        }

        @ParameterizedTest(name = "{0}, now {1}, seen stopped before: {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom,     status,    stopped, step
                CUT,         SUCCEEDED, false,   take succeeded
                CUT,         PARTIAL,   false,   take partial
                CUT,         FAILED,    false,   take failed
                CUT,         STOPPED,   false,   look in 2 s
                CUT,         STOPPED,   true,    take failed
                CUT,         SUCCEEDED, true,    take succeeded
                STOPPED,     STOPPED,   false,   look in 2 s
                STOPPED,     STOPPED,   true,    take failed
                CRASH,       STOPPED,   false,   look in 2 s
                CRASH,       FAILED,    false,   take failed
                LOST_RESULT, SUCCEEDED, false,   take succeeded
                TIMED_OUT,   SUCCEEDED, false,   take succeeded
                TIMED_OUT,   FAILED,    false,   take failed
                TIMED_OUT,   STOPPED,   false,   take failed
                UNCONFIRMED, SUCCEEDED, false,   take succeeded
                UNCONFIRMED, FAILED,    false,   judge failed
                UNCONFIRMED, STOPPED,   false,   look in 2 s
                UNCONFIRMED, STOPPED,   true,    judge failed
                INTERRUPTED, SUCCEEDED, false,   take succeeded
                INTERRUPTED, FAILED,    false,   'interrupted, recheck 0'
                INTERRUPTED, STOPPED,   false,   look in 2 s
                INTERRUPTED, STOPPED,   true,    'interrupted, recheck 0'
                RECHECK,     SUCCEEDED, false,   take succeeded
                RECHECK,     FAILED,    false,   recheck 0
                RECHECK,     STOPPED,   false,   recheck 0
                """)
        void anEndIsTakenOnceItIsSure(Symptom symptom, RunStatus status, boolean stopped,
                String step) {
            var doubt = doubt(symptom);

            assertEquals(step, step(stopped ? doubt.stoppedOnce(NOON) : doubt, found(status)));
        }

        @Test
        void aRunOverItsTimeHasTimedOutWhateverItsEndSays() {
            var step = (Step.Take) inquiry.step(doubt(Symptom.TIMED_OUT),
                    ended(failed("Rate Limit Error")), HERE, NOON);

            assertTrue(TheJudge.said(step.verdict()).startsWith("timed out"), step.toString());
        }

        @ParameterizedTest(name = "{0}, {1} after {2} s, begun {3} s before, sent again by wish: {4}")
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                symptom,     status,  seconds, age, resend, step
                CUT,         RUNNING, 299,     -,   false,  look
                CUT,         RUNNING, 300,     -,   false,  unknown
                CUT,         RUNNING, 300,     -,   true,   unknown
                CUT,         RUNNING, 310,     299, false,  look
                CUT,         RUNNING, 310,     300, false,  unknown
                CUT,         PAUSED,  10,      -,   false,  paused
                STOPPED,     RUNNING, 299,     -,   false,  look
                UNCONFIRMED, RUNNING, 299,     -,   false,  look
                UNCONFIRMED, RUNNING, 300,     -,   true,   unknown
                TIMED_OUT,   RUNNING, 299,     299, false,  look
                TIMED_OUT,   RUNNING, 300,     0,   false,  look
                TIMED_OUT,   RUNNING, 300,     -,   false,  unknown
                CRASH,       RUNNING, 299,     -,   true,   look
                CRASH,       RUNNING, 300,     -,   false,  unknown
                CRASH,       RUNNING, 300,     -,   true,   'resent, send 0'
                CRASH,       PAUSED,  10,      -,   false,  paused
                CRASH,       PAUSED,  10,      -,   true,   'resent, send 0'
                RECHECK,     RUNNING, 299,     -,   false,  look
                RECHECK,     RUNNING, 300,     -,   false,  unknown
                """)
        void aRunThatGoesOnIsWaitedForUntilItsTimeIsOver(Symptom symptom, RunStatus status,
                long seconds, Long age, boolean resend, String step) {
            var now = NOON.plusSeconds(seconds);
            var found = new Found.Running(run("run-1"), status,
                    Optional.ofNullable(age).map(Duration::ofSeconds));

            assertEquals(step, word(inquiry(resend).step(doubt(symptom), found, HERE, now), now));
        }

        @ParameterizedTest(name = "{0}, {1}, by name: {2}, nothing found after {3} s")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                listing,    mode,      name,  seconds, step
                FROM_START, BLOCKING,  own,   29,      look
                FROM_START, BLOCKING,  own,   30,      'not_started, recheck 1'
                FROM_START, STREAMING, own,   299,     look
                FROM_START, STREAMING, own,   300,     'not_started, recheck 1'
                AT_END,     BLOCKING,  own,   299,     look
                AT_END,     BLOCKING,  own,   300,     unknown
                AT_END,     STREAMING, own,   0,       unknown
                NOT_KNOWN,  BLOCKING,  own,   299,     look
                NOT_KNOWN,  BLOCKING,  own,   300,     unknown
                NOT_KNOWN,  STREAMING, own,   299,     look
                NOT_KNOWN,  STREAMING, own,   300,     unknown
                FROM_START, BLOCKING,  fixed, 300,     unknown
                FROM_START, STREAMING, fixed, 0,       unknown
                """)
        void whatLeavesNoTraceIsSentAgainOnlyWhereThatProvesThatItNeverStarted(Listing listing,
                Mode mode, String name, long seconds, String step) {
            var own = attempt(mode, Tries.NONE);
            var asked = new Attempt(1, own.row(), own.tries(), name.equals("own") ? own.user() : "nightly",
                    mode, own.cells(), NOON);

            assertEquals(step, step(doubt(Symptom.NO_ANSWER, asked, false), ABSENT, listing, seconds));
        }

        @ParameterizedTest
        @EnumSource(value = Symptom.class, mode = EnumSource.Mode.EXCLUDE, names = "UNCONFIRMED")
        void aRunThatIsKnownIsNeverJudgedNotStarted(Symptom symptom) {
            for (var listing : Listing.values())
                for (var mode : List.of(Mode.BLOCKING, Mode.STREAMING)) {
                    var doubt = doubt(symptom, attempt(mode, Tries.NONE), true);
                    assertEquals("look", step(doubt, ABSENT, listing, 299));
                    assertEquals("unknown", step(doubt, ABSENT, listing, 301));
                }
        }

        @ParameterizedTest(name = "{0} after {1} failed attempts")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom,     failed, step
                NO_ANSWER,   0,      'not_started, recheck 1'
                NO_ANSWER,   2,      'not_started, recheck 3'
                NO_ANSWER,   3,      'not_started, failed'
                CRASH,       3,      'not_started, recheck 3'
                INTERRUPTED, 0,      'not_started, recheck 0'
                """)
        void aRequestThatNeverStartedCountsAsATryOfTheCallThatSentIt(Symptom symptom, int failed,
                String step) {
            var doubt = doubt(symptom, attempt(failed, 0), false);

            assertEquals(step, step(doubt, ABSENT, Listing.FROM_START, 30));
        }

        @ParameterizedTest(name = "{0}: {1}")
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                mode      | words                                          | step
                STREAMING | name is required in input form                 | judge failed
                STREAMING | [Errno 111] Connection refused                 | judge again
                STREAMING | Workflow stream ended without a terminal event | judge look up
                BLOCKING  | [Errno 111] Connection refused                 | judge again
                BLOCKING  | no such city                                   | judge failed
                """)
        void aFailureThatIsStoredNowhereIsJudgedByItsWords(Mode mode, String words, String step) {
            var doubt = new Doubt.NoEnd(attempt(mode, Tries.NONE), bare(words),
                    Symptom.UNCONFIRMED, "", NOON, NOON);

            assertEquals(step, step(doubt, ABSENT));
        }

        @Test
        void aFailureThatIsStoredNowhereHasNoRunToLookFor() {
            var step = (Step.Judged) inquiry.step(doubt(Symptom.UNCONFIRMED,
                    attempt(Mode.STREAMING, Tries.NONE), true), ABSENT, HERE, NOON);

            assertEquals(Optional.empty(), step.seen().run());
        }

        @ParameterizedTest(name = "{0}, {1} after {2} s, sent again by wish: {3}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom, answer,    seconds, resend, step
                CUT,     503,       299,     false,  look
                CUT,     503,       300,     false,  unknown
                CUT,     503,       300,     true,   unknown
                CRASH,   503,       300,     true,   'resent, send 0'
                CUT,     401,       10,      false,  stop
                CUT,     401,       300,     false,  stop
                CUT,     none,      10,      false,  look
                CUT,     none,      300,     false,  look
                CUT,     too large, 10,      false,  judge failed
                RECHECK, 503,       299,     false,  look
                """)
        void aLookWithoutAnAnswerIsRepeatedUnlessItsAnswerSaysMore(Symptom symptom, String answer,
                long seconds, boolean resend, String step) {
            var now = NOON.plusSeconds(seconds);

            assertEquals(step, word(inquiry(resend).step(doubt(symptom), silent(answer), HERE, now), now));
        }

        private static Found silent(String answer) {
            return new Found.Silent(switch (answer) {
                case "none" -> cut(Symptom.NO_ANSWER);
                case "too large" -> new Seen.TooLarge(Optional.of(run("run-1")), "too large");
                default -> http(Integer.parseInt(answer), "", "");
            });
        }

        @ParameterizedTest(name = "{0}, {1}, its edits are lost: {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status,    kind, lost,  step
                SUCCEEDED, ROW,  false, 'say, stale, recheck 0'
                PARTIAL,   ROW,  false, 'say, stale, recheck 0'
                SUCCEEDED, TRY,  true,  'say, stale, recheck 0'
                SUCCEEDED, ROW,  true,  unknown
                FAILED,    ROW,  false, take failed
                """)
        void aSuccessOfOtherCellsIsNotTaken(RunStatus status, Kind kind, boolean lost, String step) {
            var attempt = stale(kind, lost ? row("a").hash() : "");

            assertEquals(step, step(doubt(Symptom.CRASH, attempt, true), found(status)));
        }

        @ParameterizedTest(name = "{0}, its stop asked for: {1}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status,    asked, step
                RUNNING,   false, nothing
                SUCCEEDED, false, take succeeded
                SUCCEEDED, true,  take succeeded
                FAILED,    false, take failed
                FAILED,    true,  'interrupted, nothing'
                STOPPED,   false, judge look up
                STOPPED,   true,  'interrupted, nothing'
                """)
        void theEndOfARunWhoseStreamIsQuietIsTaken(RunStatus status, boolean asked, String step) {
            var quiet = new Doubt.QuietStream(attempt(0, 0), Optional.of(run("run-1")), NOON, NOON);
            var here = new Here(Listing.FROM_START, asked, false);

            assertEquals(step, word(inquiry.step(quiet, found(status), here, NOON), NOON));
            assertEquals("nothing", word(inquiry.step(quiet, ABSENT, here, NOON), NOON));
            assertEquals("nothing", word(inquiry.step(quiet, silent("503"), here, NOON), NOON));
        }

        private static Attempt earlier(String user) {
            return new Attempt(0, row("a"), Tries.NONE, user, Mode.BLOCKING, row("a").hash(),
                    NOON);
        }

        private static Doubt.Recheck recheck(Attempt... earlier) {
            return Doubt.Recheck.of(List.of(earlier), new Tries(2, 0), NOON);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                found,     step
                SUCCEEDED, take succeeded
                FAILED,    recheck 2
                STOPPED,   recheck 2
                RUNNING,   look
                PAUSED,    paused
                """)
        void whatTurnsUpBeforeARowIsSentAgainIsTakenOrWaitedFor(RunStatus found, String step) {
            assertEquals(step, step(recheck(earlier("u-1"), earlier("u-2")), found(found)));
        }

        @Test
        void aRowIsSentAgainOnceNoneOfItsEarlierAttemptsHasTurnedUp() {
            var first = recheck(earlier("u-1"), earlier("u-2"));

            var second = ((Step.LookAgain) inquiry.step(first, ABSENT, HERE, NOON)).doubt();

            assertEquals("u-1", first.attempt().user());
            assertEquals("u-2", second.attempt().user());
            assertEquals(NOON, second.due());
            assertEquals("send 2", step(second, ABSENT));
        }

        @Test
        void anEarlierAttemptOfWhichTheServerSaysNothingIsAskedForAgain() {
            var again = ((Step.LookAgain) inquiry.step(recheck(earlier("u-1"), earlier("u-2")), silent("503"),
                    HERE, NOON)).doubt();

            assertEquals("u-1", again.attempt().user());
            assertEquals(NOON.plusMillis(500), again.due());
            assertEquals("stop", step(recheck(earlier("u-1")), silent("401")));
        }

        @Test
        void anEarlierAttemptWithOtherCellsIsNotTakenEither() {
            assertEquals("say, stale, recheck 0", step(recheck(stale(Kind.ROW, "")),
                    found(RunStatus.SUCCEEDED)));
        }

        @Test
        void anEarlierAttemptThatTurnsUpRunningHasTheWholeTimeLimit() {
            var waits = ((Step.LookAgain) inquiry.step(recheck(earlier("u-1")),
                    found(RunStatus.RUNNING), HERE, NOON.plusSeconds(50))).doubt();

            var doubt = assertInstanceOf(Doubt.NoEnd.class, waits);
            assertEquals(Optional.of(run("run-1")), doubt.run());
            assertEquals(NOON.plusSeconds(350), doubt.deadline());
            assertTrue(doubt.holds());
        }

        @ParameterizedTest(name = "{0}, the row has a success: {1}, the same cells: {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status,    success, same,  step
                SUCCEEDED, false,   true,  take succeeded
                PARTIAL,   false,   true,  take partial
                SUCCEEDED, true,    true,  nothing
                SUCCEEDED, false,   false, nothing
                FAILED,    false,   true,  nothing
                STOPPED,   false,   true,  nothing
                RUNNING,   false,   true,  nothing
                PAUSED,    false,   true,  nothing
                """)
        void aLateRunIsTakenWhereTheRowHasNoSuccessAndTheSameCells(RunStatus status, boolean success,
                boolean same, String step) {
            var late = new Doubt.Late(same ? earlier("u-1") : stale(Kind.ROW, ""), NOON);
            var here = new Here(Listing.FROM_START, false, success);

            assertEquals(step, word(inquiry.step(late, found(status), here, NOON), NOON));
            assertEquals("nothing", word(inquiry.step(late, ABSENT, here, NOON), NOON));
            assertEquals("nothing", word(inquiry.step(late, silent("503"), here, NOON), NOON));
        }

        @Test
        void aRunThatIsPaidTwiceByWishIsCountedUnseenOnlyIfNobodyKnowsIt() {
            for (boolean known : new boolean[] {true, false}) {
                var doubt = doubt(Symptom.CRASH, earlier("nightly"), known);

                var step = (Step.Close) inquiry(true).step(doubt, ABSENT, HERE, NOON.plusSeconds(301));

                assertEquals("resent", step.end());
                assertEquals(known, step.seen().run().isPresent());
            }
        }
    }

    @Nested
    class TheProof {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                listing,    mode,      run,   fixed, proof
                FROM_START, BLOCKING,  false, false, SETTLE
                FROM_START, STREAMING, false, false, SETTLE
                AT_END,     BLOCKING,  false, false, WAIT
                AT_END,     STREAMING, false, false, UNKNOWN
                NOT_KNOWN,  BLOCKING,  false, false, WAIT
                NOT_KNOWN,  STREAMING, false, false, WAIT
                FROM_START, BLOCKING,  true,  false, WAIT
                FROM_START, STREAMING, true,  false, WAIT
                AT_END,     BLOCKING,  true,  false, WAIT
                AT_END,     STREAMING, true,  false, WAIT
                NOT_KNOWN,  BLOCKING,  true,  false, WAIT
                NOT_KNOWN,  STREAMING, true,  false, WAIT
                FROM_START, BLOCKING,  false, true,  UNKNOWN
                FROM_START, STREAMING, false, true,  UNKNOWN
                AT_END,     BLOCKING,  false, true,  UNKNOWN
                NOT_KNOWN,  STREAMING, false, true,  UNKNOWN
                FROM_START, BLOCKING,  true,  true,  WAIT
                AT_END,     STREAMING, true,  true,  WAIT
                """)
        void aMissingTraceProvesWhatTheListingAllowsWhateverTheSymptom(Listing listing, Mode mode,
                boolean run, boolean fixed, Proof proof) {
            var own = attempt(mode, Tries.NONE);
            var user = fixed ? "nightly" : own.user();
            var asked = new Attempt(1, own.row(), own.tries(), user, mode, own.cells(), NOON);
            for (var symptom : Symptom.values()) {
                var doubt = doubt(asked, run ? cut(symptom, run("run-1")) : cut(symptom), 0);

                assertEquals(proof, Proof.of(doubt, listing), symptom.name());
                assertFalse(Proof.reason(doubt).isEmpty());
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                version,    listing,    fills in, holds refused
                1.9.2,      AT_END,     false,    false
                1.10.1,     AT_END,     false,    false
                0.15.3,     AT_END,     false,    false
                1.11.0,     NOT_KNOWN,  true,     true
                1.13.3,     NOT_KNOWN,  true,     true
                1.14.0,     FROM_START, true,     true
                1.14.2,     FROM_START, true,     true
                1.14.0-rc1, FROM_START, true,     true
                1.15.0,     FROM_START, true,     true
                1.16.0,     FROM_START, true,     false
                1.20.0,     FROM_START, true,     false
                2.0.0,      FROM_START, true,     false
                '',         NOT_KNOWN,  true,     true
                dev,        NOT_KNOWN,  true,     true
                1,          NOT_KNOWN,  true,     true
                """)
        void whatAServerDoesIsKnownByItsVersion(String version, Listing listing, boolean fillsIn, boolean holds) {
            assertEquals(new Release(listing, fillsIn, holds), Release.of(version));
        }
    }

    @Nested
    class TheBackoff {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                attempts,   full
                0,          1000
                1,          2000
                2,          4000
                5,          32000
                6,          60000
                63,         60000
                2147483647, 60000
                """)
        void doublesUpToItsCapLessUpToAHalf(int attempts, long full) {
            for (int time = 0; time < 200; time++) {
                long delay = BACKOFF.delay(attempts).toMillis();

                assertTrue(delay >= full / 2 && delay <= full, delay + " ms");
            }
        }

        @Test
        void rowsDoNotComeBackTogether() {
            var delays = IntStream.range(0, 50).mapToObj(_ -> BACKOFF.delay(3)).distinct().count();

            assertTrue(delays > 10, delays + " different waits");
        }

        @Test
        void aYearIsNoOverflow() {
            var long1 = new Backoff(Duration.ofDays(365), Duration.ofDays(365), 3);

            assertTrue(long1.delay(40).compareTo(Duration.ofDays(182)) >= 0);
            assertTrue(long1.delay(40).compareTo(Duration.ofDays(365)) <= 0);
        }

        @Test
        void noWaitIsPossible() {
            assertEquals(Duration.ZERO, new Backoff(Duration.ZERO, seconds(60), 3).delay(9));
        }

        @Test
        void theServersWishWinsOnlyWhenItIsLonger() {
            assertEquals(seconds(120), BACKOFF.delay(0, Optional.of(seconds(120))));
            assertTrue(BACKOFF.delay(4, Optional.of(seconds(1))).compareTo(seconds(8)) >= 0);
            assertTrue(BACKOFF.delay(0, Optional.empty()).compareTo(seconds(1)) <= 0);
        }

        @Test
        void noServerMakesARowWaitForMoreThanTenMinutes() {
            assertEquals(Duration.ofMinutes(10), BACKOFF.delay(0, Optional.of(Duration.ofDays(30))));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                status, asked, pause
                429,    1,     waits
                503,    600,   waits
                429,    601,   ends
                503,    86400, ends
                429,    -,     none
                500,    60,    none
                400,    60,    none
                301,    60,    none
                """)
        void aPauseIsAskedForByARefusalThatMeansAll(int status, Long asked, String pause) {
            var seen = Seen.Refused.http(status, false, "", "no",
                    Optional.ofNullable(asked).map(DifyExecTest::seconds));

            assertEquals(pause, Pause.of(seen, NOON).map(told -> told.isTooLong() ? "ends" : "waits")
                    .orElse("none"));
        }
    }

    @Nested
    class ThePace {
        private final Pace pace = new Pace(8, null);

        @Test
        void startsAtItsCeiling() {
            assertTrue(pace.hasRoom(NOON, 7));
            assertFalse(pace.hasRoom(NOON, 8));
        }

        @Test
        void isCutToWhatTheServerRuns() {
            pace.refused(6, 5, 8);

            assertEquals(5, pace.limit());
            assertFalse(pace.hasRoom(NOON, 5));
            assertEquals(5, pace.lowest());
        }

        @Test
        void theRefusalsOfOneRoundTripTakeAwayOneEach() {
            pace.refused(6, 5, 8); // eight have begun: 7 and 8 were counted as running
            pace.refused(7, 1, 8); // others have ended meanwhile, which says nothing
            pace.refused(8, 0, 8);
            assertEquals(3, pace.limit());

            pace.refused(9, 2, 9);

            assertEquals(2, pace.limit());
        }

        @Test
        void theQueuedStreamsOfOneRoundTripAreOneCut() {
            assertTrue(pace.queued(6, () -> 5, 8));
            assertFalse(pace.queued(8, () -> 3, 8));

            assertEquals(5, pace.limit());
        }

        @Test
        void oneRunIsAlwaysTried() {
            pace.refused(1, 0, 1);

            assertEquals(1, pace.limit());
            assertTrue(pace.hasRoom(NOON, 0));
        }

        @Test
        void isNeverRaisedByARefusal() {
            pace.refused(1, 2, 1);
            pace.refused(9, 8, 9);

            assertEquals(2, pace.limit());
        }

        @Test
        void growsByOneAfterTenWindowsWithoutARefusal() {
            pace.refused(1, 2, 1);

            for (int run = 0; run < 19; run++) pace.succeeded();
            assertEquals(2, pace.limit());
            pace.succeeded();
            assertEquals(3, pace.limit());
            for (int run = 0; run < 30; run++) pace.succeeded();
            assertEquals(4, pace.limit());
            assertEquals(List.of(2, 4), List.of(pace.lowest(), pace.highest()));
        }

        @Test
        void aRefusalStartsTheCountOfWindowsAnew() {
            pace.refused(1, 2, 1);
            for (int run = 0; run < 19; run++) pace.succeeded();

            pace.refused(2, 2, 2);
            pace.succeeded();

            assertEquals(2, pace.limit());
        }

        @Test
        void neverGrowsAboveItsCeiling() {
            for (int run = 0; run < 1000; run++) pace.succeeded();

            assertEquals(8, pace.limit());
        }

        @Test
        void aLongWaitForAFirstEventIsAQueue() {
            assertFalse(pace.isQueued(Duration.ofMillis(30)));
            assertFalse(pace.isQueued(Duration.ofMillis(900)));
            assertTrue(pace.isQueued(Duration.ofMillis(1100)));
        }

        @Test
        void aServerThatAlwaysTakesLongHasNoQueue() {
            for (int start = 0; start < 9; start++) assertFalse(pace.isQueued(seconds(2 + start % 3)));
            assertTrue(pace.isQueued(seconds(9)));
        }

        @ParameterizedTest(name = "-c {0}, {1} runs were cut: {2} places")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                places, cut, held
                8,      0,   0
                8,      3,   3
                8,      4,   4
                8,      8,   4
                5,      5,   2
                3,      3,   1
                2,      2,   1
                1,      1,   1
                1,      7,   1
                1,      0,   0
                """)
        void runsThatWereCutHoldHalfAtMostButTheOnlyPlace(int places, int cut, int held) {
            assertEquals(held, new Pace(places, null).held(Collections.nCopies(cut, NOON), NOON));
        }

        @ParameterizedTest(name = "the slowest took {0} s, cut {1} s ago: held = {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                slowest, ago, held
                0,       9,   1
                0,       10,  0
                2,       9,   1
                2,       10,  0
                3,       11,  1
                3,       12,  0
                60,      239, 1
                60,      240, 0
                """)
        void theOnlyPlaceIsHeldForFourTimesTheSlowestRun(long slowest, long ago, int held) {
            var one = new Pace(1, null);
            one.took(seconds(1));
            one.took(seconds(slowest));
            one.took(Duration.ZERO);

            assertEquals(held, one.held(List.of(NOON), NOON.plusSeconds(ago)));
        }

        @Test
        void halfIsOfWhatTheServerTakes() {
            pace.refused(6, 3, 8);

            assertEquals(1, pace.held(Collections.nCopies(5, NOON), NOON));
        }

        @Test
        void nothingStartsInAPause() {
            pace.pause(NOON.plusSeconds(9));
            pace.pause(NOON.plusSeconds(3));

            assertFalse(pace.hasRoom(NOON.plusSeconds(8), 0));
            assertTrue(pace.hasRoom(NOON.plusSeconds(9), 0));
            assertEquals(NOON.plusSeconds(9), pace.nextStart());
        }

        @Test
        void withAWaitTheNextStartIsThatLongAfterTheEnd() {
            var slow = new Pace(1, seconds(5));
            assertTrue(slow.hasRoom(NOON, 0));

            slow.started(NOON);
            assertFalse(slow.hasRoom(NOON.plusSeconds(3600), 0));
            slow.ended(NOON.plusSeconds(10));

            assertFalse(slow.hasRoom(NOON.plusSeconds(14), 0));
            assertTrue(slow.hasRoom(NOON.plusSeconds(15), 0));
        }

        @Test
        void withARateALateStartDelaysNoneAfterItAndAPauseIsNotMadeUpFor() {
            var even = new Pace(9, null, new Rate(seconds(2)));

            even.started(NOON);
            assertFalse(even.hasRoom(NOON.plusMillis(1999), 1));
            assertTrue(even.hasRoom(NOON.plusMillis(2000), 1));
            even.started(NOON.plusMillis(2100));
            assertEquals(NOON.plusSeconds(4), even.nextStart());
            even.started(NOON.plusSeconds(60));

            assertFalse(even.hasRoom(NOON.plusMillis(61_700), 1));
            assertTrue(even.hasRoom(NOON.plusSeconds(62), 1));
        }
    }

    @Nested
    class TheMostRunsAtWork {
        private final AtWork atWork = new AtWork(8);

        private void ended(long began, long ended) {
            atWork.add(seconds(ended - began), NOON.plusSeconds(ended));
        }

        @Test
        void areThoseThatRanBesideEachOther() {
            ended(0, 10);
            ended(2, 11);
            ended(5, 12);
            ended(11, 20);
            ended(11, 21);

            assertEquals(3, atWork.most());
        }

        @Test
        void doNotCountThatWhichFollowedInThePlaceOfAnother() {
            for (int run = 0; run < 4; run++) {
                ended(10 * run, 10 * run + 10);
                atWork.add(seconds(10), NOON.plusSeconds(10 * run + 10).minusMillis(100)); // the clocks differ a little
            }

            assertEquals(2, atWork.most());
        }

        @Test
        void areForgottenInTime() {
            for (int run = 0; run < 5; run++) ended(0, 10);
            for (int run = 1; run <= 8; run++) ended(10 * run, 10 * run + 10);

            assertEquals(1, atWork.most());
        }

        @Test
        void areNotKnownOfAServerThatTellsNoTimes() {
            ended(5, 5);

            assertEquals(0, atWork.most());
        }
    }

    @Nested
    class TheHealth {
        private final Health health = new Health(new Backoff(seconds(10), seconds(60), 3));

        private void fail(int times, Instant when) {
            for (int time = 0; time < times; time++) health.failed(when, when);
        }

        @Test
        void fourFailuresInARowStopNothing() {
            fail(4, NOON);
            health.begun();

            assertTrue(health.isOpen(NOON));
        }

        @Test
        void fiveFailuresInARowPauseAllStarts() {
            fail(5, NOON);

            assertFalse(health.isOpen(NOON));
            assertFalse(health.isOpen(NOON.plusSeconds(4)));
        }

        @Test
        void afterTheBackOffOneProbeGoesOutAlone() {
            fail(5, NOON);
            assertTrue(health.isOpen(NOON.plusSeconds(10)));

            health.begun();

            assertFalse(health.isOpen(NOON.plusSeconds(10)));
            assertFalse(health.isOpen(NOON.plusSeconds(100)));
            assertEquals(Instant.MAX, health.nextProbe());
        }

        @Test
        void probesThatFailComeEverLater() {
            fail(7, NOON);

            assertFalse(health.isOpen(NOON.plusSeconds(19)));
            assertTrue(health.isOpen(NOON.plusSeconds(40)));
            assertFalse(health.nextProbe().isBefore(NOON.plusSeconds(20)));
        }

        @Test
        void whatWasOnItsWayWhenStartsPausedDelaysNoProbe() {
            fail(5, NOON);
            for (int late = 0; late < 60; late++) health.failed(NOON.plusSeconds(1), NOON.minusSeconds(1));

            assertTrue(health.isOpen(NOON.plusSeconds(10)));
        }

        @Test
        void anAnswerOpensUpAgain() {
            fail(9, NOON);
            health.begun();

            health.answered();

            assertTrue(health.isOpen(NOON));
            fail(4, NOON);
            assertTrue(health.isOpen(NOON));
        }

        @Test
        void fiveMinutesWithoutAnyAnswerAreTheEnd() {
            fail(5, NOON);

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(300), 0));
            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(301), 1));
            assertEquals(STOPPED, health.verdict(NOON.plusSeconds(301), 0).orElseThrow().code());
        }

        @Test
        void anAnswerBeginsTheFiveMinutesAnew() {
            fail(5, NOON);
            health.answered();
            fail(5, NOON.plusSeconds(200));

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(499), 0));
            assertTrue(health.verdict(NOON.plusSeconds(501), 0).isPresent());
        }

        @Test
        void aServerThatAsksToBeLeftAloneIs() {
            health.pause(NOON.plusSeconds(90));
            health.pause(NOON.plusSeconds(30));

            assertFalse(health.isOpen(NOON.plusSeconds(89)));
            assertEquals(NOON.plusSeconds(90), health.nextProbe());
            assertTrue(health.isOpen(NOON.plusSeconds(90)));
        }

        @Test
        void thatItIsLeftAloneIsNoSilenceOfItsOwn() {
            fail(5, NOON);
            health.pause(NOON.plusSeconds(600));

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(599), 0));
            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(600), 0));
            fail(1, NOON.plusSeconds(601));
            health.pause(NOON.plusSeconds(1201));
            assertTrue(health.verdict(NOON.plusSeconds(601), 0).isPresent());
        }

        @Test
        void aMinuteOfRefusalsWhileNothingRunsIsTheEnd() {
            for (int second = 0; second <= 60; second += 15) health.refused(NOON.plusSeconds(second), 0);
            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(60), 0));

            health.refused(NOON.plusSeconds(61), 0);

            assertTrue(health.verdict(NOON.plusSeconds(61), 0).orElseThrow().why().contains("refuses every run"));
        }

        @Test
        void twoRefusalsFarApartAreNoEnd() {
            health.refused(NOON, 0);
            health.refused(NOON.plusSeconds(90), 0); // a long Retry-After was kept to

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(91), 0));
        }

        @Test
        void refusalsWhileRunsOfOursGoOnAreNoEnd() {
            health.refused(NOON, 0);
            health.refused(NOON.plusSeconds(30), 2);
            health.refused(NOON.plusSeconds(70), 0);

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(70), 0));
        }

        @Test
        void aRunThatIsLetInEndsTheMinute() {
            health.refused(NOON, 0);
            health.served();
            health.refused(NOON.plusSeconds(70), 0);

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(70), 0));
        }
    }

    @Nested
    class TheRoute {
        private static Route route(Mode asked) {
            return new Route(asked, Optional.empty(), "1.14.2");
        }

        private static Optional<String> tell(Route route, Seen seen, long seconds) {
            return route.seen(attempt(0, 0), seen, seconds(seconds), 0);
        }

        private static final Seen REFUSED_STREAM = Seen.Refused.event(500, "",
                "x is required in input form", Optional.empty());

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                asked,     earlier,   mode
                AUTO,      -,         BLOCKING
                AUTO,      STREAMING, STREAMING
                AUTO,      BLOCKING,  BLOCKING
                BLOCKING,  STREAMING, BLOCKING
                STREAMING, BLOCKING,  STREAMING
                """)
        void autoTakesTheModeThatAnEarlierCallWentOverTo(Mode asked, Mode earlier,
                Mode mode) {
            assertEquals(mode, new Route(asked, Optional.ofNullable(earlier), "").mode());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status, after, mode
                504,    1,     STREAMING
                524,    100,   STREAMING
                502,    60,    BLOCKING
                503,    60,    BLOCKING
                500,    60,    BLOCKING
                429,    60,    BLOCKING
                """)
        void onlyAProxysTimeOutLeadsToStreams(int status, long after, Mode mode) {
            var route = route(Mode.AUTO);

            var said = tell(route, html(status), after);

            assertEquals(mode, route.mode());
            assertEquals(mode == Mode.STREAMING, said.isPresent());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom,   after, mode
                NO_ANSWER, 26,    STREAMING
                CUT,       60,    STREAMING
                NO_ANSWER, 25,    BLOCKING
                NO_ANSWER, 1,     BLOCKING
                TIMED_OUT, 300,   BLOCKING
                """)
        void aLateCutIsAProxysTooButNotTheOwnTimeLimit(Symptom symptom, long after, Mode mode) {
            var route = route(Mode.AUTO);

            tell(route, cut(symptom), after);

            assertEquals(mode, route.mode());
        }

        @Test
        void aModeThatWasAskedForStays() {
            var route = route(Mode.BLOCKING);

            assertEquals(Optional.empty(), tell(route, html(504), 60));
            assertEquals(Mode.BLOCKING, route.mode());
        }

        @Test
        void neitherRunsNorWhatWasNotSentChangeTheMode() {
            var route = route(Mode.AUTO);

            assertEquals(Optional.empty(), tell(route, succeeded("run-1"), 100));
            assertEquals(Optional.empty(), tell(route, new Seen.NotSent("refused"), 100));
            assertEquals(Mode.BLOCKING, route.mode());
        }

        @Test
        void threeRefusedStreamsLeadBackToBlocking() {
            var route = new Route(Mode.AUTO, Optional.of(Mode.STREAMING), "1.14.2");

            assertEquals(Optional.empty(), tell(route, REFUSED_STREAM, 0));
            assertEquals(Optional.empty(), tell(route, REFUSED_STREAM, 0));
            assertTrue(tell(route, REFUSED_STREAM, 0).orElseThrow().contains("blocking mode"));
            assertEquals(Mode.BLOCKING, route.mode());
        }

        @Test
        void refusedStreamsThatHoldNoConnectionLeadNowhere() {
            var route = new Route(Mode.AUTO, Optional.of(Mode.STREAMING), "1.16.0");

            for (int time = 0; time < 5; time++) assertEquals(Optional.empty(), tell(route, REFUSED_STREAM, 0));

            assertEquals(Mode.STREAMING, route.mode());
        }

        @Test
        void threeRefusedStreamsAreEnoughAlsoWithRunsBetweenThem() {
            var route = new Route(Mode.AUTO, Optional.of(Mode.STREAMING), "1.14.2");

            for (int time = 0; time < 3; time++) {
                tell(route, REFUSED_STREAM, 0);
                tell(route, succeeded("run-1"), 1);
            }

            assertEquals(Mode.BLOCKING, route.mode());
        }

        @Test
        void anErrorBesideARunIsNoRefusal() {
            var route = route(Mode.STREAMING);
            var run = Optional.of(new RunRef("run-1", "task-1"));

            for (int time = 0; time < 5; time++)
                tell(route, Seen.Refused.event(400, "", "connection error", run), 0);

            assertEquals(Mode.STREAMING, route.mode());
        }

        @Test
        void aRefusalThatIsNoStreamHoldsNoConnection() {
            var route = route(Mode.STREAMING);

            for (int time = 0; time < 5; time++) tell(route, THROTTLED, 0);

            assertEquals(Mode.STREAMING, route.mode());
        }

        /// Stands for a stream that was refused as too many with so many others of ours running, or that ran.
        private static Optional<String> stream(Route route, String word) {
            var attempt = attempt(Mode.STREAMING, Tries.NONE);
            return word.equals("ran") ? route.seen(attempt, succeeded("run-1"), seconds(1), 0)
                    : route.seen(attempt, THROTTLED, seconds(0), Integer.parseInt(word));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                streams             | mode
                0, 0                | STREAMING
                0, 0, 0             | BLOCKING
                4, 3, 2, 1, 0, 0, 0 | BLOCKING
                0, 0, 1, 0, 0       | STREAMING
                0, 0, ran, 0, 0     | STREAMING
                1, 1, 1, 1, 1       | STREAMING
                """)
        void streamsThatAreRefusedWithNothingOfOursRunningLeadToBlockingAlsoWhereTheyWereAskedFor(String streams,
                Mode mode) {
            var forced = route(Mode.STREAMING);
            var auto = new Route(Mode.AUTO, Optional.of(Mode.STREAMING), "1.14.2");
            for (var route : List.of(forced, auto)) {
                var said = Stream.of(streams.split(", ")).flatMap(word -> stream(route, word).stream()).toList();

                assertEquals(mode, route.mode());
                assertEquals(mode == Mode.BLOCKING ? 1 : 0, said.size());
                assertTrue(said.stream().allMatch(text -> text.endsWith("the batch goes on in blocking mode.")),
                        said.toString());
            }
        }

        @Test
        void whatRefusesStreamsIsNotAskedForThemAgain() {
            var route = new Route(Mode.AUTO, Optional.of(Mode.STREAMING), "1.14.2");
            for (int time = 0; time < 3; time++) stream(route, "0");

            assertEquals(Optional.empty(), tell(route, html(504), 60));
            assertEquals(Mode.BLOCKING, route.mode());
        }

        @Test
        void aRunningRunFoundByItsNameShowsHowTheServerLists() {
            var route = new Route(Mode.AUTO, Optional.empty(), "");
            var doubt = doubt(attempt(0, 0), cut(Symptom.CUT), 0);
            assertEquals(Listing.NOT_KNOWN, route.listing());

            route.listsRunning(doubt.with(run("run-1"))); // found by its id: says nothing of the list
            assertEquals(Listing.NOT_KNOWN, route.listing());
            route.listsRunning(doubt);

            assertEquals(Listing.FROM_START, route.listing());
        }
    }

    // ── Dify ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives that many bytes a read, as a slow line does.
    private static InputStream inPieces(String text, int size) {
        return new FilterInputStream(new ByteArrayInputStream(text.getBytes(UTF_8))) {
            @Override
            public int read(byte[] into, int from, int length) throws IOException {
                return super.read(into, from, Math.min(length, size));
            }
        };
    }

    @Nested
    class TheWrittenText {
        private static String written(String... pieces) throws IOException {
            var out = new ByteArrayOutputStream();
            try (var writer = new Utf8(out)) {
                for (var piece : pieces) writer.write(piece);
            }
            return UTF_8.newDecoder().decode(ByteBuffer.wrap(out.toByteArray())).toString(); // whole UTF-8
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                text                          | written
                größer 日本語 😀              | größer 日本語 😀
                \ud83d end                    | \\ud83d end
                cut \ud83d                    | cut \\ud83d
                \ude00 alone                  | \\ude00 alone
                \ude00\ud83d                  | \\ude00\\ud83d
                \ud83d\ud83d\ude00            | \\ud83d😀
                \ud83d日                      | \\ud83d日
                """)
        void halfAPairIsItsEscapeWhereverItStandsAndHoweverItComes(String text, String written) throws IOException {
            assertEquals(written, written(text));
            assertEquals(written, written(text.split("(?s)(?<=.)"))); // whole characters
            assertEquals(written, written(text.chars().mapToObj(c -> String.valueOf((char) c)).toArray(String[]::new)));
        }

        @Test
        void anEmojiStaysReadableInTextOfAnyLength() throws IOException {
            var text = "x" + "😀".repeat(100_000);

            assertEquals(text, written(text));
            var out = new ByteArrayOutputStream();
            try (var json = Json.Tokens.writing(out)) {
                json.writeString(text);
            }
            assertEquals('"' + text + '"', out.toString(UTF_8));
        }

        @Test
        void itIsShownAsWhatCannotBeShown() throws IOException {
            var out = new ByteArrayOutputStream();
            try (var writer = Utf8.shown(out)) {
                writer.write("\ud83d end 😀");
            }

            assertEquals("\uFFFD end 😀", out.toString(UTF_8));
        }

        @Test
        void theRequestHoldsItToo() throws IOException {
            var attempt = attempt(0, 0);

            var body = DifyClient.requestBody(attempt, Map.of("q", new Value.Text("\ud83d end")));

            assertEquals("\ud83d end", JSON.readTree(body.getBytes(UTF_8)).path("inputs").path("q").asText());
        }
    }

    @Nested
    class TheDoor {
        private final AtomicLong nanos = new AtomicLong(-5_000_000_000L);
        private final Door door = new Door(nanos::get);

        private void pass(long millis) {
            nanos.addAndGet(millis * 1_000_000);
        }

        private static Usage usage(double seconds) {
            return new Usage(seconds, 10, 3, Optional.empty(), "");
        }

        @Test
        void aConnectionIsUsedAgainUntilAnotherRequestHasWaitedForTwoSeconds() {
            door.call();
            pass(1500);
            var second = door.call();
            pass(500);
            second.answered();
            assertFalse(second.mustMakeRoom());

            pass(1);

            assertTrue(second.mustMakeRoom());
        }

        @Test
        void aRequestThatWasAnsweredOrGivenUpWaitsNoMore() {
            var answered = door.call();
            var left = door.call();
            var last = door.call();
            pass(5000);

            answered.answered();
            left.close();
            last.answered();

            assertFalse(last.mustMakeRoom());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                took, ran,      waited
                1500, 0.3,      1200
                300,  0.3,      0
                300,  0.31,     0
                300,  0,        -
                300,  -1,       -
                300,  NaN,      -
                300,  1e300,    0
                """)
        void aRequestWaitedForAsLongAsItsRunDidNotTake(long took, double ran, Long waited) {
            var call = door.call();
            pass(took);
            call.answered();
            pass(9000); // its files are fetched

            assertEquals(Optional.ofNullable(waited).map(Duration::ofMillis), call.waited(usage(ran)));
        }
    }

    @Nested
    class TheStreamOfEvents {
        private static List<String> events(String text, int pieces) {
            var found = new ArrayList<String>();
            var sse = new Sse(inPieces(text, pieces));
            try {
                while (sse.next()) found.add(new String(sse.data().readAllBytes(), UTF_8));
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
            return found;
        }

        /// Read in one piece, byte by byte, and in between: always the same.
        private static void assertEvents(List<String> expected, String text) {
            for (int pieces : new int[] {1, 2, 3, 7, 1 << 20})
                assertEquals(expected, events(text, pieces), pieces + " bytes a read");
        }

        @Test
        void eachEventIsItsData() {
            assertEvents(List.of("{\"a\":1}", "{\"b\":2}"), "data: {\"a\":1}\n\ndata: {\"b\":2}\n\n");
        }

        @Test
        void aPingWithoutDataIsNoEvent() {
            assertEvents(List.of("one", "two"),
                    "event: ping\n\ndata: one\n\nevent: ping\n\nevent: ping\n\ndata: two\n\n");
        }

        @Test
        void severalLinesOfDataAreJoinedByANewline() {
            assertEvents(List.of("{\n\"a\":\n1}", "next"), "data: {\ndata: \"a\":\ndata: 1}\n\ndata: next\n\n");
        }

        @Test
        void linesMayEndAsWindowsEndsThem() {
            assertEvents(List.of("one\ntwo", "three"),
                    "data: one\r\ndata: two\r\n\r\nevent: ping\r\n\r\ndata: three\r\n\r\n");
        }

        @Test
        void commentsAndOtherFieldsArePassedOver() {
            assertEvents(List.of("one\ntwo", "three"), ": hello\n\nid: 7\nevent: message\ndata: one\n: in between\n"
                    + "retry: 5\ndata: two\n\ndatabase: no\ndata: three\n\n");
        }

        @Test
        void oneBlankAfterTheColonIsNoPartOfTheData() {
            assertEvents(List.of("a", "a", " a", ""), "data:a\n\ndata: a\n\ndata:  a\n\ndata:\n\n");
        }

        @Test
        void aCharacterOfSeveralBytesMayComeInPieces() {
            assertEvents(List.of("größer 日本語 😀", "ß"), "data: größer 日本語 😀\n\ndata: ß\n\n");
        }

        @Test
        void theLastEventNeedsNoBlankLine() {
            assertEvents(List.of("one", "two"), "data: one\n\ndata: two");
            assertEvents(List.of("one", "two"), "data: one\n\ndata: two\n");
        }

        @Test
        void nothingIsNoEvent() {
            assertEvents(List.of(), "");
            assertEvents(List.of(), "\n\n\n");
            assertEvents(List.of(), "dat");
        }

        @Test
        void anEventThatIsNotReadToItsEndIsPassedOver() throws IOException {
            var sse = new Sse(inPieces("data: a long one\ndata: of two lines\n\ndata: next\n\n", 5));
            sse.next();
            sse.data().read();

            assertTrue(sse.next());
            assertEquals("next", new String(sse.data().readAllBytes(), UTF_8));
            assertFalse(sse.next());
        }

        @Test
        void aLineMayBeMegabytesLong() {
            var text = "ä".repeat(3 << 20);

            assertEquals(List.of(text, "end"), events("data: " + text + "\n\ndata: end\n\n", 100_000));
        }

        @Test
        void theEndOfTheStreamIsTold() throws IOException {
            var sse = new Sse(inPieces("data: {\"half\":", 100));
            assertTrue(sse.next());
            assertFalse(sse.isAtEnd());

            sse.data().readAllBytes();

            assertTrue(sse.isAtEnd());
        }
    }

    @Nested
    class TheRunReader {
        @TempDir Path folder;
        private final RunReader reader = new RunReader();

        private static InputStream in(String json) {
            return new ByteArrayInputStream(json.getBytes(UTF_8));
        }

        private static String outputs(Seen seen) {
            return new String(((Seen.Ran) seen).outputs(), UTF_8);
        }

        /// A blocking answer with these outputs.
        private Seen.Ran answered(String outputs) throws IOException {
            reader.readAnswer(in("""
                    {"task_id": "t1", "workflow_run_id": "r1", "data": {"id": "r1", "workflow_id": "w1", \
                    "status": "succeeded", "outputs": %s, "error": null, "elapsed_time": 1.234567, "total_tokens": 42, \
                    "total_steps": 3, "created_at": 1705407629, "finished_at": 1705407630}}""".formatted(outputs)));
            return (Seen.Ran) reader.ran().orElseThrow();
        }

        @Test
        void aBlockingAnswerIsARun() throws IOException {
            var ran = answered("{\"answer\": \"\\u00e4 \\/ b\"}");

            assertEquals(new RunRef("r1", "t1"), ran.ref());
            assertEquals(RunStatus.SUCCEEDED, ran.status());
            assertEquals("{\"answer\":\"ä / b\"}", outputs(ran));
            assertEquals("", ran.error());
            assertEquals("w1", ran.workflowId());
            assertEquals(new Usage(1.234567, 42, 3, Optional.empty(), ""), ran.usage());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                told                                        | kept
                {}                                          | {}
                null                                        | {}
                {"n": 123456789012345678901234567890}       | {"n":123456789012345678901234567890}
                {"n": 0.1234567890123456789012345}          | {"n":0.1234567890123456789012345}
                {"n": 1.10}                                 | {"n":1.10}
                {"n": -0, "m": -0.0}                        | {"n":-0,"m":-0.0}
                {"n": 1e2, "m": 1E400, "k": 1.5e-7}         | {"n":1e2,"m":1E400,"k":1.5e-7}
                {"n": NaN, "m": -Infinity}                  | {"n":"NaN","m":"-Infinity"}
                {"n": null, "t": true, "l": [1, {"a": []}]} | {"n":null,"t":true,"l":[1,{"a":[]}]}
                {"text": "{\\"inner\\": 1}"}                | {"text":"{\\"inner\\": 1}"}
                {"\\ud83d": ["\\ud83d end", "\\ude00"]}      | {"\\ud83d":["\\ud83d end","\\ude00"]}
                {"\\ud83d\\ude00": "\\ud83d\\ud83d\\ude00"}  | {"😀":"\\ud83d😀"}
                "{\\"text\\": \\"\\\\ud83d end\\"}"            | {"text":"\\ud83d end"}
                """)
        void outputsKeepTheirNumbersAsWritten(String told, String kept) throws IOException {
            assertEquals(kept, outputs(answered(told)));
        }

        @Test
        void deeplyNestedAndLongOutputsAreKept() throws IOException {
            var deep = "{\"a\":" + "[".repeat(3000) + "]".repeat(3000) + ",\"b\":\"" + "x".repeat(30_000_000) + "\"}";

            assertEquals(deep, outputs(answered(deep)));
        }

        @Test
        void halfAnEmojiInTheOutputsLosesNoRun() throws IOException {
            var ran = answered("{\"text\": \"cut \\ud83d\"}");

            var line = Results.line(attempt(0, 0), ran, NOON, List.of());

            assertEquals("cut \ud83d", JSON.readTree(line).path("outputs").path("text").asText());
            var ending = Ending.of(line);
            assertEquals(new Ending.Value("cut \ud83d", false), ending.outputs().get("text"));
            var path = Files.write(folder.resolve("results.jsonl"), line);
            var index = new Index();
            Results.read(path, index, List.of());
            assertEquals("a", index.id(0));
        }

        @Test
        void anAnswerWithoutAStatusIsNoRun() throws IOException {
            reader.readAnswer(in("{\"workflow_run_id\": \"r1\", \"data\": {\"id\": \"r1\"}}"));

            assertEquals(Optional.empty(), reader.ran());
            assertEquals(Optional.of(new RunRef("r1", "")), reader.ref());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "[]", "'text'", "<html>", "{'workflow_run_id': 'r1', 'data': {'status': 'succ",
                "{'a': 1"})
        void whatIsNoWholeObjectIsNoAnswer(String text) {
            assertThrows(IOException.class, () -> reader.readAnswer(in(json(text))));
        }

        /// Events of the run `r1`, whose task is `t1`.
        private void events(String... events) throws IOException {
            for (var event : events) reader.readEvent(in(json(event)));
        }

        private static String event(String name, String data) {
            return "{'event':'" + name + "','workflow_run_id':'r1','task_id':'t1','data':" + data + "}";
        }

        @Test
        void aStreamIsARunOnceItHasFinished() throws IOException {
            events(event("workflow_started", "{'id':'r1','workflow_id':'w1'}"));
            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());
            assertEquals(Optional.empty(), reader.ran());

            events(event("node_finished", """
                            {'id':'n1','node_id':'llm','status':'succeeded','outputs':{'text':'no'},'error':null,\
                            'elapsed_time':9.9}"""),
                    event("workflow_finished", """
                            {'id':'r1','workflow_id':'w1','status':'failed','outputs':{'a':1},'error':'no such city',\
                            'elapsed_time':2.5,'total_tokens':7,'total_steps':2,'exceptions_count':0,'files':[]}"""));

            var ran = (Seen.Ran) reader.ran().orElseThrow();
            assertEquals("workflow_finished", reader.event);
            assertEquals(RunStatus.FAILED, ran.status());
            assertEquals("no such city", ran.error());
            assertEquals("{\"a\":1}", outputs(ran));
            assertEquals(2.5, ran.usage().seconds());
        }

        @Test
        void theRunIsNamedByWhicheverEventComesFirst() throws IOException {
            events(event("text_chunk", "{'text':'x','from_variable_selector':null}"));

            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());
        }

        @Test
        void aNodesIdIsNotTheRuns() throws IOException {
            events(event("node_started", "{'id':'n1','workflow_id':'no'}"),
                    event("iteration_completed", "{'id':'n2','status':'succeeded'}"));

            assertEquals("r1", reader.runId);
            assertEquals(Optional.empty(), reader.ran());
        }

        @Test
        void eventsAndFieldsOfLaterVersionsArePassedOver() throws IOException {
            events(event("reasoning_chunk", "{'id':'x','status':'failed','reasoning':[{}]}"));
            assertEquals(Optional.empty(), reader.ran());
            assertEquals("r1", reader.runId);

            events(event("workflow_finished", "{'new':{'a':[1]},'id':'r1','status':'succeeded','outputs':{}}"));

            assertEquals(RunStatus.SUCCEEDED, ((Seen.Ran) reader.ran().orElseThrow()).status());
        }

        @Test
        void pricesOfNodesAreSummedExactly() throws IOException {
            var data = "{'id':'n','execution_metadata':{'total_price':%s,'currency':'USD','more':{'total_price':'9'}}}";
            events(event("node_finished", data.formatted("'0.1'")), event("node_finished", data.formatted("0.2")),
                    event("node_finished", data.formatted("'0.0000123'")), event("node_retry", data.formatted("'5'")),
                    event("node_finished", data.formatted("null")),
                    event("node_finished", "{'execution_metadata':null}"),
                    event("workflow_finished", "{'id':'r1','status':'succeeded'}"));

            var usage = ((Seen.Ran) reader.ran().orElseThrow()).usage();
            assertEquals(Optional.of(new BigDecimal("0.3000123")), usage.price());
            assertEquals("USD", usage.currency());
        }

        @Test
        void aPauseIsAnEndToo() throws IOException {
            events(event("workflow_paused", """
                    {'workflow_run_id':'r1','paused_nodes':['n'],'outputs':{},'reasons':[{'TYPE':'human'}],\
                    'status':'paused','total_tokens':3,'total_steps':2}"""));

            var ran = (Seen.Ran) reader.ran().orElseThrow();
            assertEquals(RunStatus.PAUSED, ran.status());
            assertEquals("r1", ran.ref().id());
        }

        @Test
        void anErrorEventIsReadInBothItsShapes() throws IOException {
            events("{'event':'error','message':'name is required in input form','status':500}");
            assertEquals(List.of("error", "", "500", "name is required in input form"),
                    List.of(reader.event, reader.code, Integer.toString(reader.errorStatus), reader.message));
            assertEquals(Optional.empty(), reader.ref());

            events("{'event':'error','workflow_run_id':'r1','code':'invalid_param','status':400,'message':'no'}");

            assertEquals(List.of("error", "invalid_param", "400", "no"),
                    List.of(reader.event, reader.code, Integer.toString(reader.errorStatus), reader.message));
            assertEquals("r1", reader.runId);
        }

        private Found detail(String status, String outputs) throws IOException {
            reader.readDetail(in("""
                    {"id":"r1","workflow_id":"w1","status":"%s","inputs":"{\\"id\\": \\"no\\"}","outputs":%s,\
                    "error":null,"total_steps":3,"total_tokens":42,"created_at":1,"finished_at":2,"elapsed_time":1.5}"""
                    .formatted(status, outputs)));
            return reader.found(new RunRef("r1", "t1"), NOON);
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                outputs                                 | kept
                {"a": 1, "b": "\\/"}                    | {"a":1,"b":"/"}
                "{\\"a\\": 1, \\"b\\": \\"\\\\/\\"}"    | {"a":1,"b":"/"}
                "{}"                                    | {}
                "null"                                  | {}
                null                                    | {}
                "{\\"n\\": 12345678901234567890}"       | {"n":12345678901234567890}
                """)
        void aDetailTellsItsOutputsAsAnObjectOrAsText(String outputs, String kept) throws IOException {
            var found = assertInstanceOf(Found.Ended.class, detail("succeeded", outputs));

            assertEquals(kept, outputs(found.ran()));
            assertEquals(new RunRef("r1", "t1"), found.ran().ref());
            assertEquals(42, found.ran().usage().tokens());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status,            found
                running,           running
                scheduled,         running
                something-new,     running
                paused,            paused
                succeeded,         succeeded
                partial-succeeded, partial
                failed,            failed
                stopped,           stopped
                """)
        void onlyFinalStatesAreAnEnd(String status, String word) throws IOException {
            assertEquals(word, detail(status, "{}").word());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                created_at,            age
                1768564740,            60
                1768564740.9,          60
                1768564860,            -60
                null,                  -
                0,                     -
                -5,                    -
                '"yesterday"',         -
                1768564740000,         -
                123456789012345678901, -
                """)
        void aDetailTellsHowLongItsRunHasBeenRunning(String createdAt, Long age) throws IOException {
            reader.readDetail(in("{\"id\":\"r1\",\"status\":\"running\",\"created_at\":" + createdAt + "}"));

            var found = assertInstanceOf(Found.Running.class,
                    reader.found(new RunRef("r1", "t1"), NOON));
            assertEquals(Optional.ofNullable(age).map(DifyExecTest::seconds), found.age());
        }

        @Test
        void aDetailWhoseFieldsAreAllNullIsOfNoRun() throws IOException {
            reader.readDetail(in(json("{'id':null,'workflow_id':null,'status':null,'outputs':null,'error':null}")));

            assertEquals("", reader.runId);
            assertEquals(Optional.empty(), reader.ref());
        }
    }

    // ── Input ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheCsv {
        @TempDir Path folder;

        private Csv open(byte[] bytes, String idColumn) throws IOException {
            return Csv.open(Files.write(folder.resolve("data.csv"), bytes), idColumn);
        }

        private Csv open(String text) throws IOException {
            return open(text.getBytes(UTF_8), null);
        }

        private static List<Row> rows(Csv csv) {
            var index = new Index();
            csv.check(index);
            var rows = new ArrayList<Row>();
            csv.rows(_ -> true, index).forEachRemaining(rows::add);
            assertEquals(index.size(), rows.size());
            return rows;
        }

        private List<Row> rows(String text) throws IOException {
            return rows(open(text));
        }

        private static List<List<String>> cells(List<Row> rows) {
            return rows.stream().map(row -> List.copyOf(row.inputs().values())).toList();
        }

        private static List<String> texts(List<Row> rows) {
            return rows.stream().map(row -> row.inputs().get("text")).toList();
        }

        /// What is told of a file that cannot be used; the file's own name is left out.
        private String problem(byte[] bytes) {
            var problem = assertThrows(Unusable.class, () -> rows(open(bytes, null)));
            assertEquals(UNUSABLE, problem.code());
            return problem.getMessage().replace(folder.resolve("data.csv").toString(), "data.csv");
        }

        private String problem(String text) {
            return problem(text.getBytes(UTF_8));
        }

        @Test
        void everyColumnIsAnInputAlsoTheId() throws IOException {
            var rows = rows("id,text\na,hello\nb,world\n");

            assertEquals(Map.of("id", "a", "text", "hello"), rows.get(0).inputs());
            assertEquals(List.of("a", "b"), rows.stream().map(Row::id).toList());
            assertEquals(List.of(0, 1), rows.stream().map(Row::index).toList());
            assertEquals(List.of(2L, 3L), rows.stream().map(Row::line).toList());
        }

        @ParameterizedTest
        @ValueSource(strings = {"UTF-8", "UTF-16LE", "UTF-16BE"})
        void aByteOrderMarkNamesTheEncodingAndIsNoPartOfTheFirstColumn(String charset) throws IOException {
            var bytes = "\uFEFFid,text\na,größer 日本語 😀\n".getBytes(charset);

            assertEquals(List.of(List.of("a", "größer 日本語 😀")), cells(rows(open(bytes, null))));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                end,   name
                LF,    unix
                CRLF,  windows
                CR,    old mac
                """)
        void linesMayEndInAnyWay(String end, String name) throws IOException {
            var text = "id,text\na,1\nb,2\n".replace("\n", end.replace("CR", "\r").replace("LF", "\n"));

            assertEquals(List.of(List.of("a", "1"), List.of("b", "2")), cells(rows(text)), name);
        }

        @ParameterizedTest
        @ValueSource(strings = {",", ";", "\t"})
        void theHeaderMayStandInQuotes(String delimiter) throws IOException {
            var rows = rows("\"id\",\"text\"\n\"a\",\"1\"\n".replace(",", delimiter));

            assertEquals(List.of(Map.of("id", "a", "text", "1")), rows.stream().map(Row::inputs).toList());
        }

        @Test
        void theLastLineNeedsNoEnd() throws IOException {
            assertEquals(List.of(List.of("a", "1")), cells(rows("id,text\na,1")));
            assertEquals(List.of(List.of("a", "")), cells(rows("id,text\na,")));
        }

        @Test
        void quotedCellsHoldCommasQuotesAndLinesAsTheyAre() throws IOException {
            var rows = rows("id,text\na,\"x, \"\"y\"\"\"\nb,\"two\nlines\"\nc,\"two\r\nlines\"\nd,\"\"\ne,\"\"\"\"\n");

            assertEquals(List.of("x, \"y\"", "two\nlines", "two\r\nlines", "", "\""),
                    texts(rows));
            assertEquals(List.of(2L, 3L, 5L, 7L, 8L), rows.stream().map(Row::line).toList());
        }

        @Test
        void quotedCellsMayHoldBlankLines() throws IOException {
            var rows = rows("id,text\na,\"one\n\ntwo\n\n\n\"\nb,\"\n\"\nc,x\n");

            assertEquals(List.of("one\n\ntwo\n\n\n", "\n", "x"), texts(rows));
        }

        @Test
        void aReturnAtTheEndOfAQuotedCellIsKept() throws IOException {
            assertEquals(List.of(List.of("a", "x\r"), List.of("b", "y")), cells(rows("id,text\na,\"x\r\"\nb,y\n")));
        }

        @Test
        void linesInsideQuotesAreKeptWhenTheFileIsOfWindows() throws IOException {
            var rows = rows("id,text\r\na,\"two\r\nlines\"\r\nb,\"one\nunix\"\r\n");

            assertEquals(List.of("two\r\nlines", "one\nunix"), texts(rows));
        }

        @Test
        void backslashesAreTextLikeAnyOther() throws IOException {
            var rows = rows("id,text\na,C:\\temp\\\nb,\"C:\\\"\nc,\"\\\"\"\"\nd,x\n");

            assertEquals(List.of("C:\\temp\\", "C:\\", "\\\"", "x"),
                    texts(rows));
        }

        @Test
        void aQuoteInsideABareCellIsTextLikeAnyOther() throws IOException {
            var rows = rows("id,text\na,5\" pipe\nb,6\" pipe\nc,\"7\"\" pipe\"\n");

            assertEquals(List.of("5\" pipe", "6\" pipe", "7\" pipe"), texts(rows));
        }

        @Test
        void twoQuotesInsideABareCellAreTwo() throws IOException {
            assertEquals(List.of("say \"\"hi\"\""), texts(rows("id,text\na,say \"\"hi\"\"\n")));
        }

        @ParameterizedTest
        @ValueSource(strings = {",", ";", "\t"})
        void theHeaderShowsTheDelimiter(String delimiter) throws IOException {
            var lines = List.of(List.of("id", "text", "more"), List.of("a", "\"x,y;z\tw\"", ""));

            var rows = rows(lines.stream().map(cells -> String.join(delimiter, cells))
                    .collect(Collectors.joining("\n")));

            assertEquals(List.of(List.of("a", "x,y;z\tw", "")), cells(rows));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                encoding,     text
                Shift_JIS,    日本語のテキスト
                GB18030,      简体中文
                windows-1252, größer
                UTF-8,        größer
                """)
        void anEncodingThatIsNamedIsTaken(Charset encoding, String text) throws IOException {
            var path = Files.writeString(folder.resolve("data.csv"), "id,text\na," + text + "\n", encoding);

            var csv = Csv.open(path, null, Optional.of(encoding), Optional.empty());

            assertEquals(List.of(List.of("a", text)), cells(rows(csv)));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                encoding, bytes,       half of a pair
                UTF-32BE, 0000d83d,    is decoded
                CESU-8,   eda0bd,      is decoded
                UTF-16LE, 3dd8,        is refused by the decoder
                UTF-8,    eda0bd,      is refused by the decoder
                """)
        void halfASurrogatePairIsNoCharacterInAnyEncoding(Charset encoding, String bytes) throws IOException {
            var text = new ByteArrayOutputStream();
            text.writeBytes("id,text\na,fine\nb,".getBytes(encoding));
            text.writeBytes(HexFormat.of().parseHex(bytes));
            text.writeBytes(" end\n".getBytes(encoding));
            var path = Files.write(folder.resolve("data.csv"), text.toByteArray());

            var problem = assertThrows(Unusable.class, () -> Csv.open(path, null,
                    Optional.of(encoding), Optional.empty()).check(new Index()));

            assertTrue(problem.getMessage().contains("line 3"), problem.getMessage());
            assertTrue(problem.getMessage().contains("\"\uFFFD end\" contains half of a surrogate pair")
                    || problem.getMessage().contains("not " + encoding), problem.getMessage());
        }

        @ParameterizedTest
        @ValueSource(strings = {"Shift_JIS", "EUC-JP", "EUC-KR", "GB18030", "windows-1251"})
        void aLikelyEncodingIsNamedForWhatIsNoUtf8(String encoding) throws IOException {
            var text = switch (encoding) {
                case "EUC-KR" -> "한국어로 쓴 글입니다";
                case "GB18030" -> "这是用简体中文写的文字";
                case "windows-1251" -> "Это текст на русском языке";
                default -> "これは日本語で書かれたテキストです";
            };

            var message = problem(("id,text\na," + text + "\n").getBytes(encoding));

            assertTrue(message.contains("looks like") && message.contains(encoding), message);
        }

        @Test
        void aDelimiterThatIsNamedIsTaken() throws IOException {
            var path = Files.writeString(folder.resolve("data.csv"), "id|a,b;c\n1|x,y\n");

            var csv = Csv.open(path, null, Optional.empty(), Optional.of('|'));

            assertEquals(List.of(List.of("1", "x,y")), cells(rows(csv)));
        }

        @Test
        void idsAreStrippedAndNoOtherCellIs() throws IOException {
            var row = rows("id , text\n\u00a0 a ,  x \n".replace("\u00a0", "")).getFirst();

            assertEquals("a", row.id());
            assertEquals(Map.of("id", "a", "text", "  x "), row.inputs());
        }

        @Test
        void blankLinesAtTheEndAreIgnored() throws IOException {
            assertEquals(1, rows("id,text\na,1\n\n\n\r\n").size());
        }

        @Test
        void anyColumnCanHoldTheIds() throws IOException {
            var rows = rows(open("text,number\nhello, 7 \n".getBytes(UTF_8), "number"));

            assertEquals("7", rows.getFirst().id());
            assertEquals(List.of(List.of("hello", "7")), cells(rows));
        }

        /// The cases that every reader of CSV should know, each in a file of its own.
        @ParameterizedTest(name = "{0}")
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                case                    | file                                            | cells
                simple                  | id,b,c/1,2,3/                                  | 1~2~3
                simple, Windows         | id,b,c^1,2,3^                                   | 1~2~3
                commas in quotes        | id,city,zip/Ann,"Oslo, Norway",0150/            | Ann~Oslo, Norway~0150
                empty cells             | id,b,c/1,"",""/2,3,4/                           | 1~~;2~3~4
                empty cells, Windows    | id,b,c^1,"",""^2,3,4^                           | 1~~;2~3~4
                escaped quotes          | id,b/1,"ha ""ha"" ha"/2,3/                      | 1~ha "ha" ha;2~3
                JSON                    | id,val/1,"{""a"": ""b"", ""c"": [1.5, 2.5]}"/   | 1~{"a": "b", "c": [1.5, 2.5]}
                newlines                | id,b,c/1,2,3/"Once upon @a time",5,6/7,8,9/     | error
                newlines in cells       | id,b,c/1,2,3/x,"Once@upon",6/7,8,9/             | 1~2~3;x~Once@upon~6;7~8~9
                both, Windows           | id,b,c^1,2,3^x,"Once^upon",6^                   | 1~2~3;x~Once^upon~6
                quotes and newlines     | id,b/1,"ha@""ha""@ha"/2,3/                      | 1~ha@"ha"@ha;2~3
                coordinates             | id,lat/x,"48°51'24"" N"/                        | x~48°51'24" N
                other scripts           | id,b/1,ʤ/2,日本語/                                 | 1~ʤ;2~日本語
                a quote alone           | id,b/1,"/                                       | error
                """)
        void everyKnownShapeOfACellIsReadAsItIsMeant(String name, String file, String cells) throws IOException {
            var text = file.replace('/', '\n').replace('@', '\n').replace("^", "\r\n");
            if (cells.equals("error")) {
                assertThrows(Unusable.class, () -> rows(text));
                return;
            }

            var read = cells(rows(text)).stream().map(row -> String.join("~", row)).collect(Collectors.joining(";"));

            assertEquals(cells.replace('@', '\n').replace("^", "\r\n"), read);
        }

        @Test
        void aCellMayBeTenMegabytesLongAndHoldNul() throws IOException {
            var cell = "x\0" + "é,\n".repeat(2 << 20);

            assertEquals(List.of(cell), texts(rows("id,text\na,\"" + cell + "\"\n")));
        }

        @Test
        void rowsAreReadAgainAndAgainAndOnlyThoseWanted() throws IOException {
            var csv = open("id\na\nb\nc\nd\n");
            var index = new Index();
            csv.check(index);

            for (int time = 0; time < 2; time++) {
                var seen = new ArrayList<String>();
                csv.rows(row -> row % 2 == 1, index).forEachRemaining(row -> seen.add(row.id() + row.index()));
                assertEquals(List.of("b1", "d3"), seen);
            }
            assertThrows(NoSuchElementException.class, () -> csv.rows(_ -> false, index).next());
        }

        @Test
        void theFirstRowsAreHadWithoutReadingOn() throws IOException {
            var csv = open("id\na\nb\nc\n");
            var index = new Index();
            csv.check(index);
            Files.writeString(folder.resolve("data.csv"), "id\na\nb\n\"never closed");
            var seen = new ArrayList<String>();

            csv.first(2, index).forEachRemaining(row -> seen.add(row.id()));

            assertEquals(List.of("a", "b"), seen);
            assertFalse(csv.first(0, index).hasNext());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', useHeadersInDisplayName = true, textBlock = """
                file                           | told
                id,text/a,1/b/c,3              | line 3: 1 cell where the header has 2
                id,text/a,1,2                  | line 2: 3 cells where the header has 2
                id,text/a,1/b,2/a,3            | line 4: the id "a" stands in line 2 already
                id,text/a,1/ a ,3              | line 3: the id "a" stands in line 2 already
                id,text/ ,1                    | line 2: the id is blank
                id,text/"a/b",1                | line 2: the id "a b" contains a control character or a line break
                id,text/a\tb,1                 | line 2: the id "a b" contains a control character or a line break
                id,text,text/a,1,2             | line 1: column "text" stands twice
                id,text,/a,1,2                 | line 1: column 3 has no name
                name,text/a,1                  | line 1: the first column is "name", not "id"
                ID,text/a,1                    | line 1: the first column is "ID", not "id"
                id,text/a,1//b,2               | line 3: blank, with rows after it
                id,text/a,"1/b,2               | line 2: a quote is opened there and never closed
                id,text/a,1/b,"x/y"/c,"1/d,2   | line 5: a quote is opened there and never closed
                id,text/a,"1" 2/b,3            | line 2: text after a closing quote
                id,text/a,1/b,"x/y" z/c,3      | line 4: text after a closing quote
                id,text                        | a header, but no rows
                id,text/                       | a header, but no rows
                """)
        void whatIsWrongIsToldWithItsLine(String file, String told) {
            var message = problem(file.replace('/', '\n').replace("\\t", "\t"));

            assertTrue(message.startsWith("data.csv"), message);
            assertTrue(message.contains(told), message);
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "\n", "  \n", "\uFEFF"})
        void anEmptyFileIsNoHeader(String text) {
            assertEquals("data.csv: empty, not even a header", problem(text));
        }

        @Test
        void everythingThatIsWrongIsToldAtOnce() {
            var message = problem("id,text\na,1\nb\n,3\na,4\n");

            assertTrue(message.contains("3 problems, nothing was sent"), message);
            assertTrue(message.contains("line 3: 1 cell") && message.contains("line 4: the id is blank")
                    && message.contains("line 5: the id \"a\" stands in line 2"), message);
        }

        @Test
        void twentyProblemsAreListedAndAllAreCounted() {
            var message = problem("id,text\na,1\n" + "a,1\n".repeat(25));

            assertTrue(message.contains("25 problems"), message);
            assertEquals(20, message.lines().filter(line -> line.contains("stands in line 2 already")).count());
            assertTrue(message.endsWith("… and 5 more"), message);
        }

        @Test
        void aColumnOfIdsThatIsNotThereIsToldWithThoseThatAre() {
            var problem = assertThrows(Unusable.class, () -> open("a,b\n1,2\n".getBytes(UTF_8), "c"));

            assertTrue(problem.getMessage().endsWith("there is no column \"c\"; the columns are a, b"),
                    problem.getMessage());
        }

        @Test
        void aFileThatIsNotThereAndAFolderAreToldApart() {
            var missing = folder.resolve("none.csv");

            var first = assertThrows(Unusable.class, () -> Csv.open(missing, null));
            var second = assertThrows(Unusable.class, () -> Csv.open(folder, null));

            assertEquals(missing + ": no such file", first.getMessage());
            assertEquals(folder + ": a folder, not a CSV file", second.getMessage());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                header, first, second,  line
                text,   gut,   größer,  3
                text,   größer, gut,    2
                größe,  gut,   besser,  1
                """)
        void bytesThatAreNoUtf8AreToldWithTheirLine(String header, String first, String second, int line) {
            var text = "id,%s\na,%s\nb,%s\nc,x\n".formatted(header, first, second);

            var message = problem(text.getBytes(StandardCharsets.ISO_8859_1));

            assertTrue(message.startsWith("data.csv, line " + line + ": not UTF-8"), message);
        }

        @Test
        void bytesThatAreNoUtf8AreToldWithTheirLineFarDownTheFile() {
            var bytes = new ByteArrayOutputStream();
            bytes.writeBytes("id,text\n".getBytes(UTF_8));
            for (int row = 2; row < 20_000; row++) bytes.writeBytes((row + ",ß日本語\n").getBytes(UTF_8));
            bytes.writeBytes(new byte[] {'x', ',', (byte) 0xE4, '\n'});

            var message = problem(bytes.toByteArray());

            assertTrue(message.startsWith("data.csv, line 20000: not UTF-8"), message);
        }

        @ParameterizedTest
        @ValueSource(strings = {"id,text/a,1/b/c,3/", "id,text/a,1/b,9/c,3/", "id,text/a,1/c,3/b,2/",
                "id,text/a,1/z,2/c,3/", "id,text/a,1/,2/c,3/", "id,text/new,0/a,1/b,2/c,3/"})
        void aFileThatWasChangedSinceItWasCheckedIsToldAndNotMisread(String changed) throws IOException {
            var csv = open("id,text\na,1\nb,2\nc,3\n");
            var index = new Index();
            csv.check(index);
            Files.writeString(folder.resolve("data.csv"), changed.replace('/', '\n'));

            var problem = assertThrows(Unusable.class,
                    () -> csv.rows(_ -> true, index).forEachRemaining(_ -> {}));

            assertTrue(problem.getMessage().contains("was changed while it was in use"), problem.getMessage());
        }

        /// At the end of a row, in the middle of one, in the middle of a quoted cell, and to nothing but the header.
        @ParameterizedTest
        @ValueSource(strings = {"id,text/a,1/b,2/", "id,text/a,1/b,2/c,'3", "id,text/a,1/b,2/c,'3/3", "id,text/"})
        void aFileThatWasCutShortIsToldAndNotTakenForItsEnd(String left) throws IOException {
            var csv = open("id,text\na,1\nb,2\nc,\"3\n33\"\nd,4\n");
            var index = new Index();
            csv.check(index);
            Files.writeString(folder.resolve("data.csv"), left.replace('/', '\n').replace('\'', '"'));

            var problem = assertThrows(Unusable.class,
                    () -> csv.rows(_ -> true, index).forEachRemaining(_ -> {}));

            assertTrue(problem.getMessage().contains("was changed while it was in use, it was cut short"),
                    problem.getMessage());
        }

        @Test
        void blanksAroundIdsAndColumnNamesAreCutOffAndThoseOfOtherCellsKept() throws IOException {
            var csv = open("id , the text\n r-1\u3000, hello \n");
            var index = new Index();
            csv.check(index);

            var row = csv.rows(_ -> true, index).next();

            assertEquals("r-1", row.id());
            assertEquals(Map.of("id", "r-1", "the text", " hello "), row.inputs());
        }

        @Test
        void aCutBehindTheLastRowThatIsWantedDoesNoHarm() throws IOException {
            var csv = open("id,text\na,1\nb,2\nc,3\n");
            var index = new Index();
            csv.check(index);
            Files.writeString(folder.resolve("data.csv"), "id,text\na,1\nb,2\n");

            var rows = csv.rows(BitSet.valueOf(new long[] {2}), index);

            assertEquals("b", rows.next().id());
            assertFalse(rows.hasNext());
        }
    }

    @Nested
    class TheRecords {
        /// Read in one piece and character by character: always the same.
        private static void assertRecords(List<List<String>> expected, String text, char delimiter)
                throws IOException {
            for (int size : new int[] {1, 2, 3, 1000}) {
                var slow = new FilterReader(new StringReader(text)) {
                    @Override
                    public int read(char[] into, int from, int length) throws IOException {
                        return super.read(into, from, Math.min(length, size));
                    }
                };
                var seen = new ArrayList<List<String>>();
                try (var records = new Records(slow, delimiter)) {
                    for (var record = records.next(); record != null; record = records.next()) seen.add(record);
                }
                assertEquals(expected, seen, size + " characters a read");
            }
        }

        @Test
        void outsideQuotesEveryLineEndEndsARecord() throws IOException {
            assertRecords(List.of(List.of("a"), List.of("b"), List.of("c"), List.of("d")), "a\r\nb\rc\nd\r", ',');
            assertRecords(List.of(List.of(), List.of(), List.of()), "\r\r\n\n", ',');
            assertRecords(List.of(List.of("a"), List.of(), List.of("b")), "a\n\nb", ',');
            assertRecords(List.of(), "", ',');
        }

        @Test
        void everyDelimiterPartsTwoCells() throws IOException {
            assertRecords(List.of(List.of("", ""), List.of("a", ""), List.of("", "b", "")), ",\n\"a\",\r\n,b,", ',');
        }

        @Test
        void insideQuotesNothingEndsOrChanges() throws IOException {
            assertRecords(List.of(List.of("a\r\nb", "c\rd")), "\"a\r\nb\",\"c\rd\"\r\n", ',');
            assertRecords(List.of(List.of("x", "a\"\r\n\"b"), List.of("y")), "x,\"a\"\"\r\n\"\"b\"\r\ny", ',');
            assertRecords(List.of(List.of(""), List.of("\r\n\n\n")), "\"\"\r\n\"\r\n\n\n\"\r\n", ',');
        }

        @Test
        void onlyAQuoteAtTheStartOfACellOpensOne() throws IOException {
            assertRecords(List.of(List.of("a", "b\r\n")), "a;\"b\r\n\"\r\n", ';');
            assertRecords(List.of(List.of("a;\"b"), List.of("\r\n")), "a;\"b\r\n\"\r\n\"", ',');
        }

        @Test
        void quotesInsideABareCellAreTextLikeAnyOther() throws IOException {
            assertRecords(List.of(List.of("5\" x"), List.of("y")), "5\" x\r\ny\r\n", ',');
            assertRecords(List.of(List.of("a", "x\"\"y", "b")), "a,x\"\"y,b\n", ',');
        }

        @Test
        void theLineIsTheOneInWhichTheRecordBegan() throws IOException {
            try (var records = new Records(new StringReader("a\r\n\"b\n\r\nb\"\rc\n"), ',')) {
                var lines = new ArrayList<Long>();
                while (records.next() != null) lines.add(records.line());

                assertEquals(List.of(1L, 2L, 5L), lines);
            }
        }
    }

    @Nested
    class TheCellWriter {
        private static String written(String cell, char delimiter) throws IOException {
            var text = new StringWriter();
            try (var out = new CellWriter(text, delimiter, false, "")) {
                out.write(List.of(cell));
            }
            return text.toString();
        }

        @ParameterizedTest
        @CsvSource(delimiter = '/', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                cell         / written
                plain text   / plain text
                it's 5%      / it's 5%
                ``           / ``
                a,b          / "a,b"
                a;b          / "a;b"
                a\\tb        / "a\\tb"
                a|b          / "a|b"
                a "b" c      / "a ""b"" c"
                a\\nb        / "a\\nb"
                a\\r         / "a\\r"
                ` a`         / `" a"`
                `a\u3000`    / `"a\u3000"`
                """)
        void inQuotesStandsWhatAReaderCouldPartOrStrip(String cell, String written) throws IOException {
            assertEquals(written.translateEscapes(), written(cell.translateEscapes(), '|'));
        }

        @ParameterizedTest
        @ValueSource(chars = {',', ';', '\t', '|'})
        void everyCellIsReadAsItWasWritten(char delimiter) throws IOException {
            var cells = List.of("", "\"", "a\"\"b", "\r\n", "one\n\ntwo\r", " a ", ",;\t|", "größer 日本語 😀", "\0",
                    "\\\"");
            var text = new StringWriter();
            try (var out = new CellWriter(text, delimiter, false, "\r\n")) {
                for (int row = 0; row < 2; row++) out.write(cells);
            }

            try (var records = new Records(new StringReader(text.toString()), delimiter)) {
                for (int row = 0; row < 2; row++) assertEquals(cells, records.next());
                assertNull(records.next());
            }
        }

        @Test
        void whatCannotBeWrittenIsToldAtOnce() throws IOException {
            var full = new Writer() {
                @Override
                public void write(char[] text, int from, int length) throws IOException {
                    throw new IOException("No space left on device");
                }

                @Override
                public void flush() {}

                @Override
                public void close() {}
            };
            var out = new CellWriter(full, ',', true, "\n");

            assertThrows(IOException.class, () -> out.write(List.of("x".repeat(100_000))));
        }
    }

    @Nested
    class TheCells {
        private static String hash(String... namesAndCells) {
            var inputs = new LinkedHashMap<String, String>();
            for (int name = 0; name < namesAndCells.length; name += 2)
                inputs.put(namesAndCells[name], namesAndCells[name + 1]);
            return Cells.hash(inputs);
        }

        @Test
        void theHashIsSixteenHexDigitsAndAlwaysTheSame() {
            assertEquals("b27bfd5bbb9c6917", hash("id", "a", "text", "größer"));
            assertEquals("e3b0c44298fc1c14", hash());
            assertEquals(hash("id", "a"), "%016x".formatted(Cells.number(hash("id", "a"))));
        }

        @Test
        void theHashChangesWithAnyCellAndAnyName() {
            var all = List.of(hash("id", "a", "text", "x"), hash("id", "b", "text", "x"), hash("id", "a", "text", "y"),
                    hash("id", "a", "more", "x"), hash("id", "a"), hash("id", "a", "text", "x", "more", ""),
                    hash("id", "a", "text", "x "), hash("id", "a", "text", "X"), hash("id", "a", "text", ""),
                    hash("id", "atext", "x", ""), hash("id", "at", "ext", "x"), hash());

            assertEquals(all.size(), Set.copyOf(all).size());
        }

        @Test
        void theHashIsTheSameWhenColumnsChangePlaces() {
            assertEquals(hash("id", "a", "text", "x", "more", "y"), hash("id", "a", "more", "y", "text", "x"));
        }
    }

    // ── Files ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheFirstLine {
        @TempDir Path folder;

        /// Of `results`, of `log`, of `both` or of `none`.
        private String kind(String text) throws IOException {
            var file = Files.writeString(folder.resolve("file"), text);
            boolean result = FirstLine.isOurs(file, Results::isResult, Results.BEGINNING);
            boolean event = FirstLine.isOurs(file, Journal::isEvent, Journal.BEGINNING);
            return result ? event ? "both" : "results" : event ? "log" : "none";
        }

        @ParameterizedTest(name = "{0}: {1}")
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                text                                                                   | kind
                ``                                                                     | both
                \uFEFF                                                                 | both
                {'id':'a','status':'success','outputs':{}}\\n                           | results
                \uFEFF{'id':'a','status':'success'}\\nkeep me                           | results
                {'id': 7, 'outputs': {'outputs': {}}, 'status': 'success'}\\r\\n         | results
                {'id':'a','status':'success'}                                          | results
                \uFEFF{'id':                                                           | results
                {'id': 'größer \\\\' still the id                                        | results
                {'id':'a','sta                                                         | results
                \uFEFF{'id': 'a', 'status': 'success', 'inputs': {'text': 'x           | results
                {'event':'session','t':'2026-01-16T12:00:00Z','format':1}\\n            | log
                {'t':'2026-01-16T12:00:00Z','event':'torn','file':'x'}\\n{'event        | log
                {'event':'end','t':'2026-01-16T12:00:00Z','id':'a','outcome':'failed'} | log
                {'event':'ses                                                          | log
                {'event':'session','t':'2026-01-16T12:00:00Z','tool':'dify             | log
                keep me                                                                | none
                keep me\\n                                                             | none
                \uFEFFid,text\\n1,a                                                    | none
                \\n                                                                    | none
                \\n{'id':'a','status':'success'}\\n                                    | none
                {                                                                      | none
                {\\n  'id': 'a',\\n  'status': 'success'\\n}\\n                           | none
                {'a':1}                                                                | none
                {'id':'a'}\\n{'id':'a','status':'success'}\\n                           | none
                {'id':null,'status':null}\\n                                           | none
                ['id','status']\\n                                                     | none
                {'id':'a','status':'success'\\n                                        | none
                {'id':'a','name':'Bo                                                   | none
                {'id': 7, 'sta                                                         | none
                {'id':'a','status':'open','ti                                          | none
                {'event':'click','t':'2026-01-16T12:00:00Z'}\\n                         | none
                {'event':'session','format':1}\\n                                      | none
                {'event':'session','t':'today'}\\n                                     | none
                {'event':'session','id':7                                              | none
                {'event':'click','t':'2026-01-16                                       | none
                {'event':'session','t':'2026-01-16T12:00:00Z'\\n                        | none
                """)
        void saysWhoseAFileIs(String text, String kind) throws IOException {
            assertEquals(kind, kind(json(text).translateEscapes()));
        }

        @Test
        void thatIsVeryLongIsKnownByItsBeginning() throws IOException {
            var rest = "x".repeat(200_000);
            var id = json("{'id':'") + rest;
            var inputs = json("{'id':'a','status':'success','inputs':{'text':'") + rest;

            assertEquals("results", kind(id));
            assertEquals("results", kind(inputs + json("'}}\n")));
            assertEquals("none", kind(rest));
            assertEquals("none", kind(json("{'id':'a','name':'") + rest + json("','status':'success'}\n")));
        }

        @Test
        void thatIsNotThereIsOurs() throws IOException {
            assertTrue(FirstLine.isOurs(folder.resolve("none"), _ -> false, Pattern.compile("x")));
        }
    }

    @Nested
    class TheIndex {
        private final Index index = new Index();

        @Test
        void entriesAreNumberedAsTheyCome() {
            assertEquals(0, index.add("a", 2, 7));
            assertEquals(1, index.add("b", 3, 8));

            assertEquals(1, index.find("b"));
            assertEquals(-1, index.find("c"));
            assertEquals("b", index.id(1));
            assertEquals(3, index.line(1));
            assertEquals(8, index.cells(1));
        }

        @Test
        void whatIsNotThereIsAddedWithoutALine() {
            index.add("a", 2, 7);

            assertEquals(0, index.findOrAdd("a"));
            assertEquals(1, index.findOrAdd("b"));
            assertEquals(0, index.line(1));
        }

        @Test
        void idsOfTheSameHashAreKeptApart() {
            var ids = new ArrayList<>(List.of(""));
            for (int pair = 0; pair < 10; pair++) // "Aa" and "BB" have one hash, and so has every chain of them
                ids.replaceAll(id -> id + "Aa");
            for (int pair = 0; pair < 10; pair++) {
                int at = pair * 2;
                ids.addAll(ids.stream().map(id -> id.substring(0, at) + "BB" + id.substring(at + 2)).toList());
            }
            assertEquals(1, ids.stream().map(id -> Arrays.hashCode(id.getBytes(UTF_8))).distinct().count());
            ids.forEach(id -> index.add(id, 1, 1));

            for (int entry = 0; entry < 1024; entry++) assertEquals(entry, index.find(ids.get(entry)));
            assertEquals(-1, index.find("Aa".repeat(9) + "Bb"));
        }

        @Test
        void growsPastItsFirstTablesAndBlocks() {
            var random = new Random(7);
            var ids = IntStream.range(0, 30_000).mapToObj(n -> n + "-" + "x".repeat(random.nextInt(120))).toList();
            ids.forEach(id -> index.stand(index.add(id, id.length(), id.hashCode()), Standing.FAILED));

            for (int entry = 0; entry < ids.size(); entry++) {
                assertEquals(entry, index.find(ids.get(entry)));
                assertEquals(ids.get(entry), index.id(entry));
                assertEquals(ids.get(entry).length(), index.line(entry));
                assertEquals(ids.get(entry).hashCode(), index.cells(entry));
                assertEquals(Standing.FAILED, index.standing(entry));
            }
            assertEquals(30_000, index.size());
            assertEquals(-1, index.find("30000-"));
        }

        @Test
        void idsOfAnyLengthAndLanguageAreTheSameWhenRead() {
            var ids = List.of("ö", "日本語", "😀", "x".repeat(255), "x".repeat(256), "x".repeat(65_536),
                    "ß".repeat(600_000), "x".repeat(1 << 24), "x".repeat((1 << 24) + 1), "last");
            ids.forEach(id -> index.add(id, 1, 1));

            for (int entry = 0; entry < ids.size(); entry++) {
                assertEquals(ids.get(entry), index.id(entry));
                assertEquals(entry, index.find(ids.get(entry)));
            }
            assertEquals(-1, index.find("x".repeat(257)));
        }

        @Test
        void onlyRowsOfTheFileCount() {
            index.stand(index.add("a", 2, 1), Standing.SUCCEEDED);
            index.stand(index.add("b", 3, 1), Standing.PARTIAL);
            index.endOfRows();
            index.stand(index.findOrAdd("only in the results"), Standing.SUCCEEDED);

            assertEquals(2, index.rows());
            assertEquals(1, index.count(Standing.SUCCEEDED));
            assertTrue(index.isComplete());
            index.stand(0, Standing.FAILED);
            assertFalse(index.isComplete());
        }
    }

    @Nested
    class TheLineFile {
        @TempDir Path folder;

        private static void add(LineFile file, String text) throws IOException {
            file.buffer().write(text.getBytes(UTF_8));
        }

        @Test
        void linesAreOnDiskOnceTheyAreFlushed() throws IOException {
            var path = folder.resolve("lines");
            try (var file = new LineFile(path, new byte[0])) {
                add(file, "one\n");
                assertFalse(Files.exists(path));

                assertTrue(file.flush());
                assertEquals("one\n", Files.readString(path));
                assertFalse(file.flush());
                add(file, "two\n");
                add(file, "three\n");
                assertTrue(file.flush());
            }

            assertEquals("one\ntwo\nthree\n", Files.readString(path));
        }

        @Test
        void whatFollowsFromALineHoldsOnceItIsInTheFile() throws IOException {
            var done = new ArrayList<String>();
            try (var file = new LineFile(folder.resolve("lines"), new byte[0])) {
                add(file, "one\n");
                file.onceWritten(() -> done.add("one"));
                Thread.currentThread().interrupt(); // closes the file under the write
                assertThrows(IOException.class, file::flush);
                Thread.interrupted();
                assertEquals(List.of(), done);
            }
            try (var file = new LineFile(folder.resolve("lines"), new byte[0])) {
                add(file, "two\n");
                file.onceWritten(() -> done.add("two"));

                file.flush();
                file.flush();

                assertEquals(List.of("two"), done);
            }
        }

        @Test
        void onlyANewFileBeginsWithTheHead() throws IOException {
            var path = folder.resolve("lines");
            for (var line : List.of("one\n", "two\n"))
                try (var file = new LineFile(path, Results.BOM)) {
                    add(file, line);
                    file.flush();
                }

            assertEquals("\uFEFFone\ntwo\n", Files.readString(path));
        }

        @Test
        void aWriteThatFailsIsToldAndItsLinesAreNotForgotten() throws IOException {
            var path = Files.createDirectory(folder.resolve("lines"));
            try (var file = new LineFile(path, new byte[0])) {
                add(file, "one\n");
                assertThrows(IOException.class, file::flush);

                Files.delete(path); // there is room now
                assertTrue(file.flush());
            }

            assertEquals("one\n", Files.readString(path));
        }

        /// A real run in a process that may write only small files: the shell's limit is the full disk.
        @Test
        void aFullDiskStopsTheBatchWithEveryLineWholeAndNoResultMissing() throws Exception {
            assumeTrue(Files.isExecutable(Path.of("/bin/sh")));
            var rows = new StringBuilder("id,text\n");
            for (int row = 1; row <= 60; row++) rows.append('r').append(row).append(",long")
                    .append(" and longer".repeat(180)).append('\n');
            Files.writeString(folder.resolve("data.csv"), rows);
            var java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
            var classPath = Stream.of(System.getProperty("java.class.path").split(File.pathSeparator))
                    .map(entry -> Path.of(entry).toAbsolutePath().toString())
                    .collect(Collectors.joining(File.pathSeparator));
            var builder = new ProcessBuilder("/bin/sh", "-c", "ulimit -f 60; exec \"$@\"", "sh", java,
                    "-XX:-UsePerfData", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                    "--enable-native-access=ALL-UNNAMED", "-cp", classPath, "difyexec.DifyExec", "run",
                    "--demo", "-c", "10", "-i", "data.csv", "-o", "results.jsonl")
                    .directory(folder.toFile()).redirectErrorStream(true);
            builder.environment().keySet().removeIf(name -> name.startsWith("DIFY") || name.equals("TIMEOUT"));
            var process = builder.start();
            process.getOutputStream().close();
            var said = new String(process.getInputStream().readAllBytes(), UTF_8);

            int code = process.waitFor();

            assertEquals(STOPPED, code, said);
            assertTrue(said.contains("cannot write"), said);
            var text = Files.readString(folder.resolve("results.jsonl"));
            assertTrue(text.endsWith("\n"));
            var written = new ArrayList<String>();
            for (var line : text.replace("\uFEFF", "").lines().toList())
                written.add(JSON.readTree(line).path("id").asText());
            var acknowledged = new ArrayList<String>();
            for (var line : Files.readAllLines(folder.resolve("results.jsonl.log"))) {
                var event = JSON.readTree(line);
                if (event.path("outcome").asText().equals("succeeded")) acknowledged.add(event.path("id").asText());
            }
            assertTrue(written.size() > 2 && written.size() < 60, written.toString());
            assertEquals(Set.copyOf(written), Set.copyOf(acknowledged));
        }
    }

    @Nested
    class TheJournal {
        @TempDir Path folder;

        @Test
        void everyEventIsReadAsItWasWritten() throws IOException {
            var path = folder.resolve("log");
            var events = List.<Event>of(
                    new Event.Session(NOON, 1, "difyexec 1", "http://x/v1", "app", "1.14.2", "auto", "c=5"),
                    new Event.Attempt(NOON, "größe \"1\"", 2, "user-1", "streaming", "0123456789abcdef",
                            "row", "fedcba9876543210"),
                    new Event.Run(NOON, "a", "user-1", "run-1", "task-1"),
                    new Event.Run(NOON, "😀", "user-2", "\ud83d run", "\ude00"),
                    new Event.End(NOON, "a", "user-1", "failed", "0123456789abcdef", "run-1", 2, 500, "cause",
                            "error", 1.25, 10, 3, new BigDecimal("0.0018"), "USD", "fedcba9876543210"),
                    new Event.Look(NOON, "user-1", "run-1", "absent"),
                    new Event.Harvest(NOON, "user-1", "run-1"),
                    new Event.Stop(NOON, "why", "user-1", "task-1"),
                    new Event.Throttle(NOON, "user-1", "why", 3),
                    new Event.Late(NOON, "a", "user-1", "run-1", "succeeded"),
                    new Event.Missing(NOON, "a", "user-1", "a-doc-1.pdf", "HTTP 503"),
                    new Event.Torn(NOON, "results.jsonl", 10, 20));
            try (var file = new LineFile(path, new byte[0])) {
                events.forEach(event -> Journal.write(event, file));
                file.flush();
            }
            var read = new ArrayList<Event>();

            long unread = Journal.scan(path, (event, _) -> read.add(event));

            assertEquals(0, unread);
            assertEquals(events, read);
            assertEquals(events.size(), Files.readAllLines(path).size());
        }

        @Test
        void whatALaterVersionWritesIsReadAsFarAsItIsKnown() throws IOException {
            var path = Files.writeString(folder.resolve("log"), """
                    {"event":"holiday","t":"2026-01-16T12:00:00Z","where":{"city":"Rome"}}
                    {"t":"2026-01-16T12:00:00Z"}
                    {"mood":"good","event":"look","t":"2026-01-16T12:00:00.000Z","user":"u","saw":"absent"}
                    """);
            var read = new ArrayList<Event>();

            assertEquals(0, Journal.scan(path, (event, _) -> read.add(event)));
            assertEquals(List.of(new Event.Other(), new Event.Other(),
                    new Event.Look(NOON, "u", null, "absent")), read);
        }

        @Test
        void aLineThatCannotBeReadIsCountedAndTheNextOneIsRead() throws IOException {
            var path = Files.writeString(folder.resolve("log"), """
                    {"event":"look","t":"2026-01-16T12:00:00Z","user":"u","saw":"absent"}
                    {"event":"look","t":"2026-
                    []

                    garbage
                    {"event":"look","t":"yesterday","user":"u","saw":"absent"}
                    {"event":"harvest","t":"2026-01-16T12:00:00Z","user":"u","run":"r"}
                    """);
            var read = new ArrayList<Event>();

            assertEquals(4, Journal.scan(path, (event, _) -> read.add(event)));
            assertEquals(2, read.size());
        }

        @Test
        void aLogThatIsNotThereIsEmpty() throws IOException {
            assertEquals(0, Journal.scan(folder.resolve("none"), (_, _) -> {
                throw new AssertionError();
            }));
        }
    }

    @Nested
    class TheResults {
        @TempDir Path folder;

        @Test
        void aLineIsTheOneInTheGoldenFile() throws IOException {
            var cells = new LinkedHashMap<String, String>();
            cells.put("id", "r-1");
            cells.put("text", "größer \"日本語\" 😀\nnext line");
            cells.put("number", "007");
            var row = new Row(0, 2, "r-1", cells);
            var attempt = new Attempt(1, row, new Tries(2, 5), "user-1", Mode.STREAMING,
                    row.hash(), NOON);
            var outputs = json("{'answer':'日本語 😀','n':12345678901234567890,'price':1.10,'list':[1,null,{}]}");
            var streamed = new Seen.Ran(run("run-1"), RunStatus.SUCCEEDED, outputs.getBytes(UTF_8),
                    "", "workflow-1", new Usage(1.25, 120, 3, Optional.of(new BigDecimal("0.0018")), "USD"));
            var partial = new Seen.Ran(run("run-2"), RunStatus.PARTIAL, "{}".getBytes(UTF_8),
                    "", "workflow-1", new Usage(0.5, 0, 2, Optional.empty(), ""));

            var lines = new ByteArrayOutputStream();
            lines.writeBytes(Results.line(attempt, streamed, NOON.plusMillis(1234), List.of()));
            lines.writeBytes(Results.line(attempt, partial, NOON, List.of()));

            Golden.check("results.txt", lines.toString(UTF_8));
        }

        private static Optional<Results.Head> head(Path folder, String line) throws IOException {
            try (var lines = new Lines(Files.writeString(folder.resolve("line"), line + "\n"))) {
                lines.next();
                return Results.head(lines);
            }
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', nullValues = "-", useHeadersInDisplayName = true,
                textBlock = """
                line                                                                       | id | success | partial
                {"id":"a","status":"success","inputs":{"id":"b"},"outputs":{"status":"x"}} | a  | true    | false
                {"id":"a","status":"success","workflow_status":"partial-succeeded"}        | a  | true    | true
                {"status":"success","outputs":{"outputs":{"id":"b"}},"id":" a "}           | a  | true    | false
                {"id":"a","status":"failed"}                                               | a  | false   | false
                {"id":"a","status":null}                                                   | a  | false   | false
                {"id":"a"}                                                                 | a  | true    | false
                {"id":7,"status":"success"}                                                | 7  | true    | false
                {"id":"","status":"success"}                                               | -  |         |
                {"status":"success"}                                                       | -  |         |
                {"id":"a","status":"success","outputs":{"text":"tor                        | -  |         |
                {"id":"a","status":"success"                                               | -  |         |
                ["a"]                                                                      | -  |         |
                no JSON                                                                    | -  |         |
                """)
        void aLineSaysWhoseResultItIs(String line, String id, Boolean success, Boolean partial) throws IOException {
            var expected = id == null ? Optional.empty() : Optional.of(new Results.Head(id, success, partial));

            assertEquals(expected, head(folder, line));
            assertEquals(expected, head(folder, "\uFEFF" + line));
        }

        @Test
        void theFileOfTheOriginalToolIsReadAsItIs() throws IOException {
            var path = Files.writeString(folder.resolve("results.jsonl"), """
                    \uFEFF{"id": "a", "status": "success", "outputs": {"outputs": {"answer": "1"}}, "retry_count": 0}
                    {"id": "b", "status": "success", "outputs": {"answer": "2"}}

                    {"id": "a", "status": "success", "outputs": {"answer": "3"}}
                    {"id": "c", "status": "error", "error": "no"}
                    half a li""");
            var index = new Index();
            for (var id : List.of("a", "b", "c", "d")) index.add(id, 0, 0);
            index.endOfRows();

            Results.read(path, index, List.of());

            assertEquals(List.of(Standing.SUCCEEDED, Standing.SUCCEEDED, Standing.PENDING,
                    Standing.PENDING), IntStream.range(0, 4).mapToObj(index::standing).toList());
        }

        @Test
        void linesLongerThanAnyBufferAreReadToTheirEnd() throws IOException {
            var path = Files.writeString(folder.resolve("results.jsonl"), json("{'id':'a','outputs':{'t':'"
                    + "ä".repeat(200_000) + "'}}\n{'id':'b'}\r\n{'id':'c'}"));
            var index = new Index();

            Results.read(path, index, List.of());

            assertEquals(List.of("a", "b", "c"), IntStream.range(0, index.size()).mapToObj(index::id).toList());
        }
    }

    @Nested
    class TheRetryList {
        @TempDir Path folder;
        private RetryList list;

        @BeforeEach
        void lieInTheFolder() {
            list = new RetryList(folder.resolve("results.jsonl.retry"));
        }

        @Test
        void isReadWithOrWithoutMarkAndBlanksAndDuplicates() throws IOException {
            Files.writeString(list.path(), "\uFEFFb\r\na\n\n  c  \nb\n\uFEFFa\nd\uFEFF\n");

            assertEquals(List.of("b", "a", "c", "d\uFEFF"), list.read());
        }

        @Test
        void isEmptyWhereThereIsNone() throws IOException {
            assertEquals(List.of(), list.read());
        }

        @Test
        void whatIsNoUtf8IsTold() throws IOException {
            Files.write(list.path(), new byte[] {'a', '\n', (byte) 0xE4, '\n'});

            var problem = assertThrows(Unusable.class, list::read);

            assertTrue(problem.getMessage().contains("not UTF-8"), problem.getMessage());
        }

        private static Index index(Standing... standings) {
            var index = new Index();
            for (int row = 0; row < standings.length; row++)
                index.stand(index.add(Character.toString('z' - row), row + 2, 0), standings[row]);
            index.endOfRows();
            return index;
        }

        @Test
        void isWrittenInTheOrderOfTheFile() throws IOException {
            list.write(index(Standing.FAILED, Standing.SUCCEEDED, Standing.UNKNOWN,
                    Standing.PENDING, Standing.PAUSED, Standing.PARTIAL));

            assertEquals("z\nx\nv\n", Files.readString(list.path()));
        }

        @Test
        void isGoneWhenNothingIsLeft() throws IOException {
            Files.writeString(list.path(), "a\n");

            list.write(index(Standing.SUCCEEDED));

            assertFalse(Files.exists(list.path()));
            try (var left = Files.list(folder)) {
                assertEquals(List.of(), left.toList());
            }
        }

        @Test
        void isReplacedAsAWholeNeverWrittenOver() throws IOException {
            Files.writeString(list.path(), "old\n");
            try (var reader = Files.newBufferedReader(list.path())) {
                list.write(index(Standing.FAILED));

                assertEquals("old", reader.readLine()); // a reader keeps the file that it opened
            }

            assertEquals("z\n", Files.readString(list.path()));
            try (var left = Files.list(folder)) {
                assertEquals(List.of(list.path()), left.toList());
            }
        }
    }

    @Nested
    class TheHistory {
        @TempDir Path folder;

        private String status(String log) throws IOException {
            Files.writeString(folder.resolve("results.jsonl.log"), log);
            var files = BatchFiles.of(folder.resolve("results.jsonl"));
            var out = new StringWriter();
            StatusView.print(Batch.peek(files, Optional.empty()), "CSV",
                    new PrintWriter(out, true), Paint.NONE);
            return out.toString();
        }

        private History history(String log) throws IOException {
            return History.read(Files.writeString(folder.resolve("log"), log), new Index(),
                    List.of());
        }

        @Test
        void aLogOfALaterFormatIsRefusedWithTheVersionThatWroteIt() {
            var problem = assertThrows(Unusable.class, () -> history("""
                    {"event":"session","t":"2026-01-16T12:00:00Z","format":2,"tool":"difyexec 9.9"}
                    """));

            assertTrue(problem.getMessage().contains("format 2") && problem.getMessage().contains("difyexec 9.9"),
                    problem.getMessage());
            assertEquals(UNUSABLE, problem.code());
        }

        @Test
        void theLastOutcomeOfARowCounts() throws IOException {
            var attempt = json("""
                    {'event':'attempt','t':'2026-01-16T12:00:00Z','id':'%s','n':%d,'user':'%s','mode':'blocking',\
                    'kind':'row'}
                    """);
            var end = json("""
                    {'event':'end','t':'2026-01-16T12:00:01Z','id':'%s','user':'%s','outcome':'%s','error':'no'}
                    """);

            var said = status(attempt.formatted("a", 0, "u1") + end.formatted("a", "u1", "again")
                    + attempt.formatted("a", 1, "u2") + end.formatted("a", "u2", "failed")
                    + attempt.formatted("b", 0, "u3") + end.formatted("b", "u3", "failed")
                    + attempt.formatted("b", 0, "u4") + end.formatted("b", "u4", "unknown")
                    + attempt.formatted("c", 0, "u5") + end.formatted("c", "u5", "throttled")
                    + attempt.formatted("c", 0, "u6") + end.formatted("c", "u6", "interrupted"));

            assertTrue(said.contains("3 rows"), said);
            assertTrue(said.lines().anyMatch(line -> line.matches(" +failed +1 .*")), said);
            assertTrue(said.lines().anyMatch(line -> line.matches(" +unknown +1 .*")), said);
            assertTrue(said.lines().anyMatch(line -> line.matches(" +pending +1 .*")), said);
            assertTrue(said.contains("6 (1 retry)"), said);
        }

        /// Row `a` lacks two files, `b` one, which a later run has; the last try of `c`'s end was cut off.
        @Test
        void filesThatAreMissingAreThoseOfARowsLastSuccess() throws IOException {
            var missing = json("{'event':'missing','t':'2026-01-16T12:00:01Z','id':'%s','user':'%s','file':'%s'}\n");
            var end = json("{'event':'end','t':'2026-01-16T12:00:02Z','id':'%s','user':'%s','outcome':'%s'}\n");

            var history = history(missing.formatted("a", "u1", "1.txt") + missing.formatted("a", "u1", "2.txt")
                    + missing.formatted("a", "u1", "2.txt") + end.formatted("a", "u1", "succeeded")
                    + missing.formatted("b", "u2", "1.txt") + end.formatted("b", "u2", "partial")
                    + end.formatted("b", "u3", "succeeded") + end.formatted("a", "u4", "failed")
                    + missing.formatted("c", "u5", "1.txt"));

            assertEquals("2 files of 1 row could not be fetched (a): see 'missing' in the log; 'retry --force ID' runs "
                    + "such a row anew", history.missingFiles().toString());
        }

        @Test
        void linesThatCannotBeReadAreCountedAndTold() throws IOException {
            var said = status("""
                    {"event":"session","t":"2026-01-16T12:00:00Z","format":1,"tool":"difyexec 1"}
                    {"event":"end","t":"2026-01-
                    garbage
                    {"event":"end","t":"2026-01-16T12:00:00Z","id":"a","user":"u","outcome":"failed","error":"no"}
                    """);

            assertTrue(said.contains("2 lines of the log could not be read"), said);
            assertTrue(said.lines().anyMatch(line -> line.matches(" +failed +1 .*")), said);
        }

        @ParameterizedTest
        @ValueSource(strings = {"null", "{'event':'attempt','kind':'row'}", "{'event':'end','id':'a','user':'u'}",
                "{'event':'attempt','t':'2026-01-16T12:00:00Z','id':'a','user':'u','mode':'telepathic','kind':'row'}"})
        void aLineThatLacksWhatItsEventNeedsIsOneThatCannotBeRead(String line) throws IOException {
            var session = "{'event':'session','t':'2026-01-16T12:00:00Z','format':1}\n";

            assertTrue(status(json(session + line) + "\n").contains("1 line of the log could not be read"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                options,        mode,      kept
                mode=auto c=5,  streaming, STREAMING
                mode=auto c=5,  blocking,  BLOCKING
                mode=streaming, streaming, -
                -,              streaming, -
                mode=auto,      -,         -
                """)
        void theModeIsKeptOnlyOfCallsThatLeftItToTheTool(String options, String mode, Mode kept)
                throws IOException {
            var line = JSON.createObjectNode().put("event", "session").put("t", NOON.toString()).put("format", 1)
                    .put("options", options).put("mode", mode);

            assertEquals(Optional.ofNullable(kept), history(line + "\n").mode());
        }

        @Test
        void anAttemptWithoutAnEndIsDoubtfulWithTheRunThatWasSeen() throws IOException {
            var index = new Index();
            var ids = List.of("open", "ended", "unknown", "again", "unstarted", "try");
            ids.forEach(id -> index.add(id, 0, 0));
            var attempt = """
                    {'event':'attempt','t':'2026-01-16T12:00:00Z','id':'%1$s','n':1,'user':'u-%1$s','mode':'streaming',\
                    'kind':'row'}
                    """;
            var end = "{'event':'end','t':'2026-01-16T12:00:02Z','id':'%1$s','user':'u-%1$s','outcome':'%2$s'}\n";
            var log = Files.writeString(folder.resolve("log"), json(attempt.formatted("open")
                    + "{'event':'run','t':'2026-01-16T12:00:01Z','id':'open','user':'u-open','run':'r1','task':'t1'}\n"
                    + attempt.formatted("ended") + end.formatted("ended", "failed")
                    + attempt.formatted("unknown") + end.formatted("unknown", "unknown")
                    + attempt.formatted("again") + end.formatted("again", "again")
                    + attempt.formatted("unstarted") + end.formatted("unstarted", "not_started")
                    + attempt.formatted("try").replace("'row'", "'try'")
                    + attempt.formatted("only in the log")));

            var history = History.read(log, index, List.of());
            var doubtful = history.doubtful(false);

            assertEquals(Set.of("open", "unknown", "unstarted", "only in the log"),
                    doubtful.keySet().stream().map(index::id).collect(Collectors.toSet()));
            var doubt = history.doubt(doubtful.get(index.find("open")), row("open"), Kind.ROW, seconds(300));
            assertEquals(Optional.of(new RunRef("r1", "t1")), doubt.run());
            assertEquals("u-open", doubt.attempt().user());
            assertEquals(1, doubt.attempt().tries().retries());
            assertEquals(Mode.STREAMING, doubt.attempt().mode());
            assertEquals(NOON.plusSeconds(300), doubt.deadline());
            assertEquals(Symptom.CRASH, doubt.symptom());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                outcome, run, late,  awaited
                -,       -,   false, true
                failed,  -,   false, true
                again,   r1,  false, false
                stale,   r1,  false, false
                unknown, r1,  false, false
                resent,  r1,  false, false
                -,       -,   true,  false
                """)
        void aRunIsAwaitedWhereNoneWasKnownWhenItsRowWasSentAgain(String outcome, String run, boolean late,
                boolean awaited) throws IOException {
            var attempt = "{'event':'attempt','t':'2026-01-16T12:00:00Z','id':'a','user':'%s','mode':'blocking',"
                    + "'kind':'row'}\n";
            var end = "{'event':'end','t':'2026-01-16T12:00:02Z','id':'a','user':'u1','outcome':'%s'%s}\n";

            var history = history(json(attempt.formatted("u1") + end.formatted("not_started", "")
                    + (outcome == null ? "" : end.formatted(outcome, run == null ? "" : ",'run':'" + run + "'"))
                    + attempt.formatted("u2")
                    + (late ? "{'event':'late','t':'2026-01-16T12:00:03Z','id':'a','user':'u1'}\n" : "")));

            assertEquals(awaited ? List.of("u1") : List.of(),
                    history.resent().all().stream().map(Attempt::user).toList());
        }

        @Test
        void aTryThatWasPaidForIsKnownAlsoAfterItsRowRanUnderTheSameName() throws IOException {
            var history = history(json("""
                    {'event':'attempt','t':'2026-01-16T12:00:00Z','id':'a','user':'u','mode':'streaming',\
                    'cells':'0000000000000000','kind':'try'}
                    {'event':'end','t':'2026-01-16T12:00:01Z','id':'a','user':'u','outcome':'try_succeeded','run':'r1'}
                    {'event':'attempt','t':'2026-01-16T12:00:02Z','id':'a','user':'u','mode':'streaming','kind':'row'}
                    {'event':'end','t':'2026-01-16T12:00:03Z','id':'a','user':'u','outcome':'failed','error':'no'}
                    """));

            assertEquals("r1", history.doubtful(true).get(0).run().orElseThrow().id());
        }

        @Test
        void aTryThatWasStoppedAtCtrlCIsNoFailureOfItsRow() throws IOException {
            var history = history(json("""
                    {'event':'attempt','t':'2026-01-16T12:00:00Z','id':'a','user':'u1','mode':'streaming',\
                    'cells':'0000000000000000','kind':'try'}
                    {'event':'run','t':'2026-01-16T12:00:00Z','id':'a','user':'u1','run':'r1','task':'t1'}
                    {'event':'stop','t':'2026-01-16T12:00:01Z','why':'interrupted','user':'u1','task':'t1'}
                    {'event':'attempt','t':'2026-01-16T12:00:02Z','id':'a','user':'u2','mode':'blocking','kind':'row'}
                    {'event':'end','t':'2026-01-16T12:00:03Z','id':'a','user':'u2','outcome':'throttled'}
                    """));

            var doubt = history.doubt(history.doubtful(true).get(0), row("a"), Kind.ROW, seconds(300));

            assertEquals(Symptom.INTERRUPTED, doubt.symptom());
            assertEquals(Kind.ROW, doubt.attempt().kind());
            assertEquals(Map.of(), history.doubtful(false));
        }
    }

    @Nested
    class TheLock {
        @TempDir Path folder;

        @Test
        void aSecondTakerIsRefusedUntilTheFirstHasGone() throws IOException {
            var path = folder.resolve("results.jsonl.lock");
            try (var first = Lock.take(path)) {
                var problem = assertThrows(Unusable.class, () -> Lock.take(path));
                assertTrue(problem.getMessage().contains("another difyexec"), problem.getMessage());
                assertEquals(UNUSABLE, problem.code());
                assertTrue(first.channel().isOpen());
            }

            Lock.take(path).close();
        }

        @Test
        void aLockThatCannotBeWrittenIsTold() throws IOException {
            var path = Files.createDirectory(folder.resolve("results.jsonl.lock"));

            var problem = assertThrows(Unusable.class, () -> Lock.take(path));

            assertTrue(problem.getMessage().contains("cannot be written"), problem.getMessage());
        }

        @Test
        void aSecondBatchOnTheSameOutputIsRefused() throws IOException {
            var scene = Scene.of(folder, "a");
            try (var _ = scene.open()) {
                assertThrows(Unusable.class, scene::open);
            }

            scene.open().close();
        }

        @Test
        void aBatchThatIsRefusedLetsItsLockGo() throws IOException {
            var scene = Scene.of(folder, "a");
            Files.writeString(scene.file(".log"),
                    json("{'event':'session','t':'2030-01-01T00:00:00Z','format':2,'tool':'difyexec 9.9'}\n"));
            assertThrows(Unusable.class, scene::open);

            Lock.take(scene.file(".lock")).close();
        }
    }

    @Nested
    class TheBatch {
        @TempDir Path folder;

        private static void count(int sent, int looked, Scene scene) {
            assertEquals(sent, scene.sent.size(), "runs sent");
            assertEquals(looked, scene.looked.size(), "runs looked up");
        }

        @Test
        void longResultsDoNotWaitForEachOther() throws Exception {
            var scene = Scene.of(folder, "a");
            try (var batch = scene.open()) {
                batch.result(new byte[1_000]);
                assertFalse(Files.exists(scene.output));

                batch.result(new byte[100_000]);

                assertEquals(3 + 101_000, Files.size(scene.output));
            }
        }

        @Test
        void resultsThatAreGoneAreToldAndNotRunAgain() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.play();
            Files.delete(scene.output);

            var problem = assertThrows(Unusable.class, scene::open);

            assertEquals(UNUSABLE, problem.code());
            var said = problem.getMessage();
            assertTrue(said.contains("2 results that the log knows of are gone (first: a)"), said);
            assertTrue(said.contains("--rebuild"), said);
        }

        @Test
        void resultsThatAreGoneAreFetchedAgainByTheirRunIds() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.play();
            var lines = Files.readAllLines(scene.output);
            Files.write(scene.output, lines.subList(0, 1));
            scene.sent.clear();
            scene.rebuild = true;
            scene.world.startAt(Instant.now().plusSeconds(1)); // lost results are asked for from now on
            scene.found = doubt -> ended(succeeded(doubt.run().orElseThrow().id()));

            scene.play();

            count(0, 1, scene);
            assertEquals("run-b", scene.looked.getFirst().run().orElseThrow().id());
            assertEquals(List.of("a", "b"), scene.resultIds());
            assertEquals("run-b", scene.results().get(1).path("workflow_run_id").asText());
        }

        @Test
        void aResultThatTheServerHasNoMoreIsUnknownAndNotPaidAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.play();
            Files.delete(scene.output);
            scene.sent.clear();
            scene.rebuild = true;
            scene.world.startAt(Instant.now().plusSeconds(1)); // lost results are asked for from now on

            scene.play();

            assertEquals(List.of(), scene.ids());
            assertEquals("unknown", scene.outcomes("a").getLast());
            assertEquals(List.of("a"), scene.retryIds());
        }

        @Test
        void resultsThatAreDeletedUnderTheBatchAreTold() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) assertTrue(scene.output.toFile().delete());
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(STOPPED, stop.code());
            assertTrue(stop.why().contains("was deleted meanwhile"), stop.why());
        }

        @Test
        void aTornLastLineIsCutOffAndItsRowLookedUp() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.play();
            var bytes = Files.readAllBytes(scene.output);
            Files.write(scene.output, Arrays.copyOf(bytes, bytes.length - 40));
            scene.sent.clear();
            scene.rebuild = true;
            scene.world.startAt(Instant.now().plusSeconds(1)); // lost results are asked for from now on
            scene.found = doubt -> ended(succeeded(doubt.run().orElseThrow().id()));

            scene.play();

            count(0, 1, scene);
            assertEquals(List.of("a", "b"), scene.resultIds());
            assertEquals("results.jsonl", scene.log("torn").getFirst().path("file").asText());
        }

        @Test
        void whatIsWrittenIsKnownOnceItIsOnDisk() throws IOException {
            var attempt = new Attempt(1, row("a"), Tries.NONE, "u1", Mode.BLOCKING, "",
                    NOON);
            try (var writer = Scene.of(folder, "a").open()) {
                writer.record(Event.Attempt.of(attempt));
                assertEquals(0, writer.batch().history().inFlight());

                writer.flush();
                assertEquals(1, writer.batch().history().inFlight());

                writer.settled(attempt, new Outcome.Failed("no", false), NOON, Seen.nothing(), () ->
                        assertEquals(Standing.FAILED, writer.standing(attempt.row())));
                assertEquals(Standing.PENDING, writer.standing(attempt.row()));
                writer.flush();
                assertEquals(0, writer.batch().history().inFlight());
                assertEquals("no", writer.batch().history().cause(0));
            }
        }

        @Test
        void aRowThatHasChangedSinceItsSuccessRunsAgainOnlyWhenAskedFor() throws Exception {
            new Scene(folder, "id,text\na,old\nb,same\n").play();
            var scene = new Scene(folder, "id,text\na,new\nb,same\n");
            var options = new RowOptions();
            try (var writer = scene.open()) {
                var batch = writer.batch();
                assertTrue(batch.select(options.of(Selection.pending()), seconds(1)).isEmpty());

                options.rerunChanged = true;
                var wanted = batch.select(options.of(Selection.pending()), seconds(1));

                assertEquals(1, wanted.rows());
                assertEquals("a", wanted.iterator().next().id());
            }
        }

        private List<String> selected(Scene scene, Selection selection, Consumer<RowOptions> set)
                throws IOException {
            var options = new RowOptions();
            set.accept(options);
            try (var writer = scene.open()) {
                var ids = new ArrayList<String>();
                writer.batch().select(options.of(selection), seconds(1)).iterator()
                        .forEachRemaining(row -> ids.add(row.id()));
                return ids;
            }
        }

        @Test
        void rowsAreSelectedByWhatIsAskedForAndWhatIsDone() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e");
            scene.answer = Answer.byRow(Map.of("b", List.of(failed("no")), "d", List.of(failed("no")),
                    "e", List.of(THROTTLED)));
            scene.interruptAfter(Duration.ofMillis(100));
            scene.backoff = new Backoff(seconds(60), seconds(60), 0);
            scene.play(); // a and c succeed, b and d fail, e is pending
            var pending = Selection.pending();

            assertEquals(List.of("b", "d", "e"), selected(scene, pending, _ -> {}));
            assertEquals(List.of("b", "d"), selected(scene, Selection.fromList(), _ -> {}));
            assertEquals(List.of("b", "d"), selected(scene, pending, options -> options.limit = 2L));
            assertEquals(List.of("b", "d", "e"), selected(scene, pending, options -> options.limit = 9L));
            assertEquals(List.of("d", "e"), selected(scene, pending, options -> options.ids = List.of("e", "d", "a")));
            var named = Selection.named(List.of("d"), false);
            assertEquals(List.of("d"), selected(scene, named, _ -> {}));
            var forced = Selection.named(List.of("d", "a"), true);
            assertEquals(List.of("a", "d"), selected(scene, forced, _ -> {}));
        }

        @Test
        void whatCannotBeSelectedIsTold() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.play();

            var success = assertThrows(Unusable.class,
                    () -> selected(scene, Selection.named(List.of("a"), false), _ -> {}));
            var nobody = assertThrows(Unusable.class,
                    () -> selected(scene, Selection.named(List.of("z"), false), _ -> {}));
            var noOption = assertThrows(Unusable.class,
                    () -> selected(scene, Selection.pending(), options -> options.ids = List.of("z")));

            assertTrue(success.getMessage().contains("--force"), success.getMessage());
            assertTrue(nobody.getMessage().contains("no row with the id \"z\""), nobody.getMessage());
            assertTrue(noOption.getMessage().startsWith("--ids: "), noOption.getMessage());
        }

        @Test
        void theFilesOfTheOriginalToolAreTakenOver() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            Files.writeString(scene.output,
                    json("\uFEFF{'id': 'a', 'status': 'success', 'outputs': {'outputs': {'x': 1}}}\n"));
            Files.writeString(scene.file(".retry"), "\uFEFFb\nb\n");

            assertEquals(List.of("b", "c"), selected(scene, Selection.pending(), _ -> {}));
            assertEquals(List.of("b"), selected(scene, Selection.fromList(), _ -> {}));
        }

        @Test
        void anInputThatIsAlsoAnOutputIsRefused() throws IOException {
            var output = Files.writeString(folder.resolve("data.csv"), "id\na\n");

            var problem = assertThrows(Unusable.class, () -> BatchFiles.of(output).refuse(output));

            assertTrue(problem.getMessage().contains("both input and output"), problem.getMessage());
        }

        @Test
        void anOutputThatCannotBeIsTold() {
            var folderItself = assertThrows(Unusable.class, () -> BatchFiles.of(folder));
            var nowhere = assertThrows(Unusable.class,
                    () -> BatchFiles.of(folder.resolve("none").resolve("results.jsonl")));

            assertTrue(folderItself.getMessage().contains("a folder"), folderItself.getMessage());
            assertTrue(nowhere.getMessage().contains("there is no folder"), nowhere.getMessage());
        }
    }

    @Nested
    class TheTornEnd {
        @TempDir Path folder;

        /// What is left of a file with these bytes, and how many bytes were cut off.
        private String mended(String text, long cut) throws IOException {
            var path = Files.writeString(folder.resolve("file"), text);
            var torn = new ArrayList<Event.Torn>();

            Torn.mend(path, torn);

            assertEquals(cut, torn.stream().mapToLong(Event.Torn::bytes).sum());
            torn.forEach(event -> assertEquals("file", event.file()));
            torn.forEach(event -> assertEquals(text.getBytes(UTF_8).length - cut, event.at()));
            return Files.readString(path);
        }

        @Test
        void aWholeFileStaysAsItIs() throws IOException {
            assertEquals("{\"a\":1}\n{\"b\":2}\n", mended("{\"a\":1}\n{\"b\":2}\n", 0));
            assertEquals("", mended("", 0));
            assertEquals("\n", mended("\n", 0));
        }

        @Test
        void aLineWithoutItsEndIsCutOff() throws IOException {
            assertEquals("{\"a\":1}\n", mended("{\"a\":1}\n{\"b\":\"tör", 10));
            assertEquals("{\"a\":1}\n", mended("{\"a\":1}\n{", 1));
            assertEquals("", mended("{\"only\":", 8));
            assertEquals("{\"a\":1}\n", mended("{\"a\":1}\n" + "\0".repeat(70_000), 70_000));
        }

        @Test
        void aWholeLineIsOnlyGivenItsEnd() throws IOException {
            assertEquals("{\"a\":1}\n{\"b\":2}\n", mended("{\"a\":1}\n{\"b\":2}", 0));
            assertEquals("\uFEFF{\"a\":1}\n", mended("\uFEFF{\"a\":1}", 0));
        }

        @Test
        void aMarkAloneStays() throws IOException {
            assertEquals("\uFEFF", mended("\uFEFF", 0));
        }

        @Test
        void aLongLineIsFoundFromItsStart() throws IOException {
            var first = "{\"a\":\"" + "x".repeat(200_000) + "\"}\n";

            assertEquals(first, mended(first + "{\"b\":\"" + "y".repeat(150_000), 150_006));
            assertEquals(first + first, mended(first + first.stripTrailing(), 0));
        }

        @Test
        void aFileThatIsNotThereIsNotMade() throws IOException {
            Torn.mend(folder.resolve("none"), new ArrayList<>());

            assertFalse(Files.exists(folder.resolve("none")));
        }

        @Test
        void aMarkAloneIsFollowedByNoSecondOne() throws Exception {
            var scene = Scene.of(folder, "a");
            Files.write(scene.output, Results.BOM);

            scene.play();

            assertEquals(1, Files.readString(scene.output).chars().filter(c -> c == '\uFEFF').count());
            assertEquals(List.of("a"), scene.resultIds());
        }
    }

    // ── Views ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ThePlainText {
        @Test
        void controlCharactersAndThoseThatTurnTextAroundAreBlanks() {
            assertEquals("a b c d e f g", Plain.text("a\u001bb\u202ec\u0000d\u2028e\u009bf\u200bg", 100));
            assertEquals(" [31mred ", Plain.text("\u001b[31mred\n", 100));
            assertEquals("größer 日本語 😀", Plain.text("größer 日本語 😀", 100));
            assertEquals("\uFFFD end", Plain.text("\ud83d end", 100));
        }

        @Test
        void longTextIsCutWithASign() {
            assertEquals("12345", Plain.text("12345", 5));
            assertEquals("12345…", Plain.text("123456", 5));
        }

        @Test
        void textIsNotCutInTheMiddleOfACharacter() {
            for (int longest = 1; longest < 8; longest++) {
                var cut = Plain.text("ab😀😀😀", longest);

                assertEquals(cut, new String(cut.getBytes(UTF_8), UTF_8));
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                message                                                   | cause
                no such city                                              | no such city
                HTTP 503 Service Unavailable                              | HTTP 503 Service Unavailable
                HTTP/1.1 502                                              | HTTP/1.1 502
                too large for the server (413): nginx                     | too large for the server (413): nginx
                429 Client Error: Too Many Requests                       | 429 Client Error: Too Many Requests
                [openai] Rate Limit, 429 Too Many                         | [openai] Rate Limit, 429 Too Many
                Error code: 400 - {'code': 500}                           | Error code: 400 - {'code': 500}
                status_code=429, got 504                                  | status_code=429, got 504
                exited with status code of 137                            | exited with status code of 137
                error code 100245                                         | error code …
                row 17 failed, 404 times                                  | row … failed, … times
                line 412: Unexpected token                                | line …: Unexpected token
                step 3 of 7 (5 > 2)                                       | step 3 of 7 (5 > 2)
                needs 0.5, has 12.75 of 1,234,567                         | needs 0.5, has … of …
                POST http://127.0.0.1:9009/echo/4711?n=12                 | POST http://127.0.0.1:9009/echo/…?n=…
                no route to 10.20.30.40                                   | no route to 10.20.30.40
                cannot reach foo-12.example.com:8080 at all               | cannot reach foo-12.example.com:8080 at all
                foo-12.example.com.                                       | foo-12.example.com.
                is https://api-17/v1 up?                                  | is https://api-17/v1 up?
                Pool(host='api-12', port=8000): refused                   | Pool(host='api-12', port=8000): refused
                localhost:5001 on Dify 1.14.2                             | localhost:5001 on Dify 1.14.2
                upload of scan-0017.png: HTTP 413                         | upload of scan-….png: HTTP 413
                total_tokens:4711                                         | total_tokens:…
                run 0b7f3a9e-1c2d-4e5f-8a9b-0c1d2e3f4a5b!                 | run …!
                run difyexec-0123456789abcdef-12                          | run difyexec-…-…
                at 0x7f3a, commit 3f9a2c7, chatcmpl-8xQ7bZpLk2VtYw9RsT4u  | at …, commit …, chatcmpl-…
                still running 5 min 3 s after its start                   | still running … after its start
                no answer within 9 s, 0.4 s, 1m30s or 2 hours             | no answer within …, …, … or …
                due 2026-01-16T12:00:05.123Z, 2026-01-16 12:00:05,7, 9:30 | due …, …, …
                on 16.01.2026 at 07:15 PM                                 | on … at …
                deadbeef or id=9f86d081884c7d65, not a facade             | … or id=…, not a facade
                gpt-4 of 404 wants sha256                                 | gpt-4 of … wants sha…
                """)
        void aCauseIsTheMessageWithoutWhatDiffersFromRowToRow(String message, String cause) {
            assertEquals(cause, Plain.cause(message));
        }

        @Test
        void aLongMessagesCauseIsTheSameBeforeAndAfterItWasInTheLog() {
            for (int at = 0; at < 520; at++) {
                var message = "x".repeat(at) + " run 4711 of 10.0.0.17 " + "y".repeat(600);

                assertEquals(Plain.cause(message), Plain.cause(Plain.text(message, 500)));
            }
        }

        @Test
        void aLongCauseIsCutBehindWhatDiffers() {
            var tail = " " + "word ".repeat(100);

            assertEquals(Plain.cause("row 1234567" + tail), Plain.cause("row 12" + tail));
            assertEquals(161, Plain.cause("row 12" + tail).length());
        }

        @Test
        void aPageIsItsWords() {
            assertEquals("504 Gateway Time-out nginx", Plain.html("<html><head><style>a{b:c}</style>"
                    + "<script>x()</script></head>\n<h1>504 Gateway Time-out</h1><hr>nginx</html>"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                millis,   text
                0,        0.0 s
                449,      0.4 s
                9940,     9.9 s
                10000,    10 s
                119000,   119 s
                120000,   2 min 0 s
                185000,   3 min 5 s
                7800000,  2 h 10 min
                90000000, 25 h 0 min
                """)
        void timesAreShort(long millis, String text) {
            assertEquals(text, Plain.seconds(Duration.ofMillis(millis)));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                word       | typed
                data.csv   | data.csv
                a b.csv    | 'a b.csv'
                it's.csv   | 'it'\\''s.csv'
                $HOME.csv  | '$HOME.csv'
                größe.csv  | größe.csv
                ``         | ''
                """)
        void aWordIsTypedSoThatAShellTakesIt(String word, String typed) {
            assertEquals(typed, Plain.shell(word));
        }

        @Test
        void problemsAreToldInWords() {
            assertEquals("permission denied: x", Plain.of(new AccessDeniedException("x")));
            assertEquals("no such file: x", Plain.of(new NoSuchFileException("x")));
            assertEquals("unknown host", Plain.of(new UnknownHostException("dify.example")));
            assertEquals("connection refused", Plain.of(new ConnectException()));
            assertEquals("unknown host", Plain.of(new ConnectException().initCause(
                    new UnresolvedAddressException())));
            assertEquals("EOFException", Plain.of(new EOFException()));
            assertEquals("a b", Plain.of(new IOException("a\nb")));
        }
    }

    // ── Environment ─────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheEnvironment {
        private static Env env(String... namesAndValues) {
            var variables = new HashMap<String, String>();
            for (int name = 0; name < namesAndValues.length; name += 2)
                variables.put(namesAndValues[name], namesAndValues[name + 1]);
            return Env.of(variables);
        }

        private static Access access(Env env, String baseUrl, StringWriter err) {
            var options = new DifyOptions();
            options.baseUrl = URI.create(baseUrl);
            options.timeout = seconds(300);
            options.workflowId = "";
            return options.access(env, new PrintWriter(err));
        }

        @Test
        void theFirstPlaceThatHasAValueWins(@TempDir Path here, @TempDir Path script) throws IOException {
            Files.writeString(here.resolve(".env"), "A=2\nB=3\nC=4\nD=\n");
            Files.writeString(script.resolve(".env"), "C=5\nD=6\n");
            var all = Env.of(Map.of("A", "1", "B", ""), here, script);

            assertEquals("1", all.get("A"));
            assertEquals("3", all.get("B")); // empty counts as none
            assertEquals("4", all.get("C"));
            assertEquals("6", all.get("D"));
            assertEquals("", all.get("E"));
            assertEquals("A=1", all.setting("A").orElseThrow().place());
            assertEquals("C in " + here.resolve(".env") + ", line 3", all.setting("C").orElseThrow().place());
        }

        @Test
        void aFileIsReadOnceAndWhenASettingIsAskedFor(@TempDir Path folder) throws IOException {
            var env = Env.of(Map.of(), folder);
            Files.writeString(folder.resolve(".env"), "A=1\n");
            assertEquals("1", env.get("A"));
            Files.writeString(folder.resolve(".env"), "A=2\n");

            assertEquals("1", env.get("A"));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, nullValues = "-",
                textBlock = """
                line                | value
                A=b                 | b
                A = b c             | b c
                A='b "c" d'         | -
                A='b c' # d         | b c
                A="b # c" # d       | b # c
                A=b # c             | b
                A=b#c               | b#c
                A='b#c'             | b#c
                A=#b                | ``
                A==b                | =b
                A=b=c               | b=c
                A=C:\\d\\           | C:\\d\\
                A=$B$1              | $B$1
                export A="b"        | b
                exportA=b           | -
                A="b                | -
                A="b" c             | -
                A='b                | -
                A b                 | -
                """)
        void aLineIsReadAsAShellReadsIt(String line, String value, @TempDir Path folder) throws IOException {
            Files.writeString(folder.resolve(".env"), line);

            var setting = Env.of(Map.of(), folder).setting("A");

            assertEquals(Optional.ofNullable(value).filter(text -> !text.isEmpty()),
                    setting.map(Env.Setting::text).filter(text -> !text.isEmpty()));
        }

        private static String missing(Path folder) {
            var problem = assertThrows(Unusable.class, () -> access(Env.of(Map.of(), folder),
                    "https://dify.example/v1", new StringWriter()));
            assertEquals(UNUSABLE, problem.code());
            return problem.getMessage();
        }

        @Test
        void linesThatCannotBeReadAreToldByNumberToWhoeverMissesTheKey(@TempDir Path folder) throws IOException {
            Files.writeString(folder.resolve(".env"), "app-secret\nA=b\n" + "app-secret=\"\n".repeat(6));

            assertTrue(missing(folder).startsWith("DIFY_API_KEY is missing (lines 1, 3, 4, 5, 6 … of "
                    + folder.resolve(".env") + " cannot be read): set it"), missing(folder));
            assertFalse(missing(folder).contains("secret"), missing(folder));
        }

        @Test
        void aFolderOfThatNameIsNoFault(@TempDir Path folder) throws IOException {
            Files.createDirectory(folder.resolve(".env"));

            assertTrue(missing(folder).startsWith("DIFY_API_KEY is missing (" + folder.resolve(".env")
                    + " is a folder): set it"), missing(folder));
        }

        @Test
        void aFileThatIsTooLargeIsNamed(@TempDir Path folder) throws IOException {
            Files.write(folder.resolve(".env"), new byte[(1 << 20) + 1]);

            assertEquals("DIFY_API_KEY in " + folder.resolve(".env") + ": the file is too large", missing(folder));
        }

        @Test
        void aFileThatCannotBeReadIsNamedAndFailsNobodyElse(@TempDir Path folder) throws IOException {
            var unreadable = Path.of("/proc/self/mem"); // also for root, whom no permission stops
            assumeTrue(Files.isRegularFile(unreadable));
            Files.createSymbolicLink(folder.resolve(".env"), unreadable);

            assertTrue(missing(folder).startsWith("DIFY_API_KEY in " + folder.resolve(".env")
                    + ": the file cannot be read ("), missing(folder));
            assertEquals("", Env.of(Map.of(), folder).get("NO_COLOR"));
            Files.delete(folder.resolve(".env"));
        }

        @Test
        void aStateFolderIsMadeOnlyWhereAHomeIsKnown() {
            assertEquals(Optional.empty(), StateFolder.of(env("XDG_STATE_HOME", "?")));
            assertFalse(Files.exists(Path.of("?")));
        }

        @Test
        void aBlankValueCountsAsNone() {
            assertEquals(Optional.empty(), env("A", "  ").setting("A"));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', nullValues = "-", useHeadersInDisplayName = true, textBlock = """
                key               | told
                -                 | DIFY_API_KEY is missing
                app-your-key-here | DIFY_API_KEY is missing
                app-a b           | contains a character that no key has
                app-ä             | contains a character that no key has
                """)
        void aKeyThatCannotBeOneIsToldWithoutRepeatingIt(String key, String told) {
            var env = key == null ? env() : env("DIFY_API_KEY", key);

            var problem = assertThrows(Unusable.class,
                    () -> access(env, "https://dify.example/v1", new StringWriter()));

            assertTrue(problem.getMessage().contains(told), problem.getMessage());
            assertFalse(problem.getMessage().contains(key == null ? "app-" : key), problem.getMessage());
        }

        @Test
        void theKeyIsNotPartOfAnyText() {
            var access = access(env("DIFY_API_KEY", " app-secret "), "https://dify.example/v1", new StringWriter());

            assertEquals("app-secret", access.key());
            assertFalse(access.toString().contains("secret"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                address,                  warned
                http://dify.example/v1,   true
                https://dify.example/v1,  false
                http://localhost:5001/v1, false
                http://127.0.0.1/v1,      false
                http://[::1]:5001/v1,     false
                """)
        void aKeyThatWouldTravelUnprotectedIsWarnedAbout(String address, boolean warned) {
            var err = new StringWriter();

            access(env("DIFY_API_KEY", "app-secret"), address, err);

            assertEquals(warned, err.toString().contains("not https"));
            assertFalse(err.toString().contains("secret"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                variable,    value,                       target,                  proxy
                HTTPS_PROXY, http://proxy.example:3128,   https://dify.example/v1, http://proxy.example:3128
                https_proxy, http://proxy.example:3128,   https://dify.example/v1, http://proxy.example:3128
                HTTPS_PROXY, proxy.example:3128,          https://dify.example/v1, http://proxy.example:3128
                HTTPS_PROXY, http://me:pw@proxy.example,  https://dify.example/v1, http://me:pw@proxy.example
                HTTP_PROXY,  http://proxy.example:3128,   http://dify.example/v1,  http://proxy.example:3128
                HTTP_PROXY,  http://proxy.example:3128,   https://dify.example/v1, -
                HTTPS_PROXY, http://proxy.example:3128,   http://dify.example/v1,  -
                HTTPS_PROXY, http://proxy.example:3128,   https://127.0.0.1/v1,    -
                HTTPS_PROXY, '  ',                        https://dify.example/v1, -
                """)
        void theProxyIsTheOneForTheScheme(String variable, String value, URI target, URI proxy) {
            assertEquals(Optional.ofNullable(proxy), env(variable, value).proxy(target));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                exempt                     | host              | proxied
                dify.example               | dify.example      | false
                DIFY.example               | dify.EXAMPLE      | false
                other.example              | dify.example      | true
                example                    | dify.example      | false
                .example                   | dify.example      | false
                *.example                  | api.dify.example  | false
                a.test, dify.example ,b    | dify.example      | false
                ify.example                | dify.example      | true
                *                          | dify.example      | false
                ,                          | dify.example      | true
                """)
        void noProxyNamesHostsAndDomains(String exempt, String host, boolean proxied) {
            var env = env("HTTPS_PROXY", "http://proxy.example:3128", "NO_PROXY", exempt);

            var proxy = env.proxy(URI.create("https://" + host + "/v1"));

            assertEquals(proxied, proxy.isPresent());
        }

        @ParameterizedTest
        @ValueSource(strings = {"socks5://me:secret@proxy.example:1080", "http://me:secret@", "me:secret@:3128",
                "http://me:secret@pro xy:3128", "https://me:secret@proxy.example"})
        void aProxyThatCannotBeUsedIsToldWithoutItsPassword(String value) {
            var problem = assertThrows(Unusable.class,
                    () -> env("HTTPS_PROXY", value).proxy(URI.create("https://dify.example/v1")));

            assertTrue(problem.getMessage().startsWith("HTTPS_PROXY: not a proxy's address"), problem.getMessage());
            assertFalse(problem.getMessage().contains("secret"), problem.getMessage());
        }
    }
}
