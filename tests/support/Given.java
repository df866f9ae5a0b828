package difyexec;

import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.util.RawValue;
import difyexec.DifyExec.Batch.Selection.Choice;
import difyexec.DifyExec.Limits.Ceiling;
import difyexec.DifyExec.Pace.Rate;
import difyexec.DifyExec.Response.Refused.Author;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Event.SessionEvent;
import static difyexec.DifyExec.Attempt.Tries;
import static difyexec.DifyExec.Judge.RetryRuns;
import static difyexec.DifyExec.Response.RunStatus;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Shared by the tests: golden files, values, a world with a manual clock, and a scene for the engine.
final class Given {
    /// The files in `tests/golden/`. A text must equal its file, or replaces it with `-Dgolden.update=true`.
    static final class Golden {
        static void check(String name, String text) throws IOException {
            var plain = text.replace("\r\n", "\n");
            if (Boolean.getBoolean("golden.update")) Files.writeString(folder().resolve(name), plain);
            assertEquals(read(name), plain, "golden/" + name);
        }

        static String read(String name) throws IOException {
            try (var packed = Given.class.getResourceAsStream("/golden/" + name)) {
                return packed != null && !Boolean.getBoolean("golden.update") ? new String(packed.readAllBytes(), UTF_8)
                        : Files.readString(folder().resolve(name));
            }
        }

        /// The tests were started in the checkout, or in its `tests`.
        private static Path folder() {
            return Stream.of("tests/golden", "golden").map(Path::of).filter(Files::isDirectory).findFirst()
                    .orElseThrow(() -> new IllegalStateException("no tests/golden here: start in the checkout"));
        }
    }

    /// Starts the tool in a process of its own, as the launcher does: with a cache of its classes, which halves the
    /// time of a start. The first test that needs it makes it. Java makes none for classes in folders, and starts
    /// without.
    static final class Tool {
        private static Path cache;

        static List<String> words(String... jvm) {
            var words = new ArrayList<>(plain(jvm));
            words.add(1, "-XX:SharedArchiveFile=" + cache());
            words.add(2, "-Xlog:disable");
            return words;
        }

        private static List<String> plain(String... jvm) {
            var paths = Stream.of(System.getProperty("java.class.path").split(File.pathSeparator))
                    .filter(part -> !part.isEmpty()).map(part -> Path.of(part).toAbsolutePath().toString())
                    .collect(Collectors.joining(File.pathSeparator));
            var words = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                    "--enable-native-access=ALL-UNNAMED", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"));
            words.addAll(List.of(jvm));
            words.addAll(List.of("-cp", paths, "difyexec.DifyExec"));
            return words;
        }

        private static synchronized Path cache() {
            if (cache == null) cache = make();
            return cache;
        }

        /// A small batch of the demo loads the classes that most starts need.
        private static Path make() {
            try {
                var folder = Files.createTempDirectory("difyexec-tests");
                var archive = folder.resolve("classes.jsa");
                Files.writeString(folder.resolve("in.csv"), "id,text\n1,a\n");
                var words = plain("-XX:ArchiveClassesAtExit=" + archive, "-Xlog:disable");
                words.addAll(List.of("run", "--demo", "-i", "in.csv", "-o", "out.jsonl"));
                new ProcessBuilder(words).directory(folder.toFile()).redirectErrorStream(true)
                        .redirectOutput(folder.resolve("out").toFile()).start().waitFor();
                try (var files = Files.walk(folder)) {
                    files.map(Path::toFile).forEach(File::deleteOnExit);
                }
                return archive;
            } catch (IOException | InterruptedException problem) {
                throw new IllegalStateException(problem);
            }
        }
    }

    /// A folder in memory, if there is one: a disk takes longer than most of what uses it.
    static Path folderInMemory(String name) throws IOException {
        var memory = Path.of("/dev/shm");
        return Files.createTempDirectory(Files.isWritable(memory) ? memory
                : Path.of(System.getProperty("java.io.tmpdir")), name);
    }

    /// Deletes a folder, and leaves what another thread still writes.
    static void delete(Path folder) throws IOException {
        try (var files = Files.walk(folder)) {
            files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
        }
    }

    static final Instant NOON = Instant.parse("2026-01-16T12:00:00Z");
    static final ObjectMapper JSON = new ObjectMapper();
    static final Access ACCESS = new Access(URI.create("http://dify.example/v1"),
            "app-test", "", "", Optional.empty(), Optional.empty());
    static final Backoff BACKOFF = new Backoff(seconds(1), seconds(60), 3);

    static Duration seconds(long seconds) {
        return Duration.ofSeconds(seconds);
    }

    /// JSON with `'` instead of `"`, and a value for each `%s`.
    static String json(String text, Object... values) {
        return text.replace('\'', '"').formatted(values);
    }

    static JsonNode tree(String json) {
        try {
            return JSON.readTree(json);
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    static Row row(String id) {
        return new Row(0, 2, id, new LinkedHashMap<>(Map.of("id", id)));
    }

    static Attempt attempt(Mode mode, Tries tries) {
        return sent(1, row("a"), tries, "difyexec-0123456789abcdef-1", mode, row("a").hash(), NOON);
    }

    static Attempt sent(long sequence, Row row, Tries tries, String user, Mode mode, String cells, Instant at) {
        return new Attempt(sequence, row, tries, user, mode, at,
                new Attempt.Inputs(cells, row.isEdited(), cells.equals(row.hash())));
    }

    static Attempt attempt(int failed, int throttled) {
        return attempt(Mode.BLOCKING, new Tries(failed, throttled, 0));
    }

    static RunRef run(String id) {
        return new RunRef(id, "task-of-" + id);
    }

    static Response.Ran ran(String id, RunStatus status, String error) {
        return new Response.Ran(run(id), status, outputs("{\"answer\":\"yes\"}"), error, "workflow-1",
                new Usage(1.5, 3, Cost.of(10)));
    }

    static ObjectNode outputs(String json) {
        try {
            return (ObjectNode) Json.MAPPER.readTree(json);
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    /// The made-up end of Dify 1.16: nothing was done and nothing came of it.
    static Response.Ran madeUp(String id, String error) {
        return new Response.Ran(new RunRef(id, id), RunStatus.FAILED, outputs("{}"), error, "workflow-1", Usage.NONE);
    }

    static Response.Ran succeeded(String id) {
        return ran(id, RunStatus.SUCCEEDED, "");
    }

    private static final AtomicInteger FAILED_RUNS = new AtomicInteger();

    /// A run of its own each time, because a run belongs to one row.
    static Response.Ran failed(String error) {
        return ran("run-failed-" + FAILED_RUNS.incrementAndGet(), RunStatus.FAILED, error);
    }

    static Response.Cut cut(Symptom symptom) {
        return new Response.Cut(Optional.empty(), symptom, "the line went dead");
    }

    static Response.Cut cut(Symptom symptom, RunRef run) {
        return new Response.Cut(Optional.of(run), symptom, "the line went dead");
    }

    static Response.Refused http(int status, String code, String message) {
        return Response.Refused.http(status, Author.DIFY, code, message, Optional.empty());
    }

    /// A proxy with nothing behind it answers at once.
    static Response.Refused html(int status) {
        return Response.Refused.http(status, Author.AT_ONCE, "", "a page of a proxy", Optional.empty());
    }

    /// A gateway answers when it has waited long enough.
    static Response.Refused late(int status) {
        return Response.Refused.http(status, Author.GATEWAY, "", "a page of a gateway", Optional.empty());
    }

    static Response.Refused later(int status, Duration asked) {
        return Response.Refused.http(status, Author.AT_ONCE, "", "slow down", Optional.of(asked));
    }

    /// A word for a verdict: the status of the row, or `stop`.
    static String word(Verdict verdict) {
        return switch (verdict) {
            case Outcome outcome -> outcome.status().word();
            case Verdict.Again again -> again.end();
            case Verdict.Throttled _ -> "throttled";
            case Verdict.Unresolved _ -> "look up";
            case Verdict.StopBatch _ -> "stop";
            case Verdict.Take _, Verdict.LookAgain _, Verdict.Close _, Verdict.SendAgain _, Verdict.SettlesAt _ ->
                    verdict.toString();
        };
    }

    static String textOf(Verdict verdict) {
        return switch (verdict) {
            case Outcome outcome -> outcome.text();
            case Verdict.Again again -> again.why();
            case Verdict.Throttled(_, var why) -> why;
            case Verdict.Unresolved(_, var why) -> why;
            case Verdict.StopBatch(var stop, _) -> stop.text();
            case Verdict.Take(var outcome, _) -> outcome.text();
            case Verdict.LookAgain _, Verdict.Close _, Verdict.SendAgain _, Verdict.SettlesAt _ -> verdict.toString();
        };
    }

    /// A log, event by event, a second apart.
    static final class Log {
        private final StringBuilder lines = new StringBuilder();
        private int second = 0;

        Log session(String server) {
            return add(Given.session(second, server));
        }

        Log attempt(String id, String user) {
            return add(Given.attempt(second, id, user));
        }

        Log run(String id, String user, String run) {
            return add(new Event.RunEvent(NOON.plusSeconds(second), id, user, run, "task-of-" + run));
        }

        /// @param run empty if the end has no run id
        Log end(String id, String user, String outcome, String run) {
            return add(Given.end(second, id, user, outcome, run, "no"));
        }

        Log add(Event event) {
            return line(Json.text(event));
        }

        Log line(String line) {
            lines.append(line).append('\n');
            second++;
            return this;
        }

        @Override
        public String toString() {
            return lines.toString();
        }
    }

    /// The results and the log of a batch that ran before. Its rows start a second apart, from noon. Each attempt takes
    /// `seconds` and `tokens` and costs `price` USD. Further fields of a line replace those that it has anyway.
    static final class PastBatch {
        private final StringBuilder results = new StringBuilder("\uFEFF"), log = new StringBuilder();
        private final Map<String, Integer> attempts = new HashMap<>();
        private final double seconds, price;
        private final int tokens;
        /// The time of the next line, after noon.
        int second = 0;

        PastBatch(double seconds, int tokens, double price) {
            this.seconds = seconds;
            this.tokens = tokens;
            this.price = price;
        }

        PastBatch session(Object... fields) {
            return add(log, Json.object("event", "session", "t", NOON.plusSeconds(second), "format", Event.FORMAT,
                    "tool", "difyexec 0", "app_hash", "1-2", "server", "1.14.2", "mode", "blocking"), fields);
        }

        PastBatch attempt(String... ids) {
            if (log.isEmpty()) session();
            for (var id : ids) {
                int n = attempts.merge(id, 1, Integer::sum) - 1;
                event("attempt", "id", id, "n", n, "user", "user-" + latest(id), "mode", "blocking");
            }
            return this;
        }

        /// Adds an attempt that did not succeed.
        PastBatch ended(String id, String outcome, String error) {
            return attempt(id).end(id, outcome, "error", error);
        }

        /// Ends the last attempt of a row, unless it succeeded.
        PastBatch end(String id, String outcome, Object... fields) {
            return add(log, Json.object("event", "end", "t", end(), "id", id, "user", "user-" + latest(id),
                    "outcome", outcome, "run", "run-" + latest(id), "seconds", seconds,
                    "tokens", tokens, "price", price, "currency", "USD"), fields);
        }

        /// Adds the result of a row's last attempt, or of a row that the log lacks.
        /// @param outputs a text is JSON
        PastBatch result(String id, Object outputs, Object... fields) {
            if (!log.isEmpty() && !attempts.containsKey(id)) attempt(id);
            int from = results.length();
            var end = end();
            add(results, Json.object("id", id, "status", "success", "inputs", Map.of("id", id),
                    "outputs", outputs instanceof String json ? new RawValue(json) : outputs,
                    "workflow_run_id", "run-" + latest(id), "executed_at", end, "retry_count", 0,
                    "workflow_status", "succeeded", "user", "user-" + latest(id), "seconds", seconds,
                    "total_tokens", tokens, "total_price", price, "currency", "USD"), fields);
            var checksum = new CRC32C();
            var line = results.substring(from).strip();
            checksum.update(line.getBytes(UTF_8));
            if (!attempts.containsKey(id)) return this;
            var success = Event.SuccessEvent.of(new ResultLine((ObjectNode) tree(line)), (int) checksum.getValue(), end);
            log.append(Json.text(success)).append('\n');
            return this;
        }

        /// Adds another event of the log, at the current second.
        PastBatch event(String name, Object... fields) {
            return add(log, Json.object("event", name, "t", NOON.plusSeconds(second)), fields);
        }

        private PastBatch add(StringBuilder file, Map<String, Object> line, Object... fields) {
            line.putAll(Json.object(fields));
            file.append(Json.text(line)).append('\n');
            return this;
        }

        /// Names the latest attempt of a row.
        private String latest(String id) {
            return id + "-" + attempts.getOrDefault(id, 0);
        }

        private Instant end() {
            return NOON.plusSeconds(second++).plusMillis((long) (1_000 * seconds));
        }

        /// Writes the files. Half of a surrogate pair becomes `?`.
        void save(Path output) throws IOException {
            Files.write(output, results.toString().getBytes(UTF_8));
            if (!log.isEmpty())
                Files.write(output.resolveSibling(output.getFileName() + ".log"), log.toString().getBytes(UTF_8));
        }
    }

    static Event.SessionEvent session(int second, String server) {
        return new Event.SessionEvent(NOON.plusSeconds(second), new SessionEvent.Program(Event.FORMAT, "difyexec 1", null),
                new SessionEvent.Server("http://x/v1", new AppClaim("1-2", "", ""), server, ""), Mode.STREAMING, true,
                new SessionEvent.RecordedInput("data.csv", null, List.of(), ""),
                new SessionEvent.Call(List.of("-c=5"), false, List.of()));
    }

    static Csv.Shape shape(String idColumn, Charset encoding, Character delimiter) {
        return new Csv.Shape(Objects.requireNonNullElse(idColumn, ""), encoding, new Csv.Table(delimiter, null, null, List.of()),
                "", null, null, "", new Csv.Names(Map.of(), Map.of(), ""));
    }

    /// A CSV with these columns, for tests that need nothing else of it.
    static Csv csv(String... columns) {
        var names = List.of(columns);
        var inputs = names.stream().map(name -> new Csv.Input(name, name, names.indexOf(name))).toList();
        return new Csv(text(Path.of("data.csv")), new Csv.Header("", ',', new Csv.Table(null, null, null, List.of()), 1, names), Csv.Shape.DEFAULT, inputs,
                inputs.get(Math.max(0, names.indexOf("id"))), UnaryOperator.identity(), Optional.empty(),
                Csv.ALL_COMPARED);
    }

    static Env env(Map<String, String> variables, Path... folders) {
        return new Env(variables::get, "difyexec", folders);
    }

    static TextFile text(Path file) {
        return new TextFile(new Original(file), () -> Files.newInputStream(file), UTF_8, "", false, "",
                TextFile.Extras.NONE);
    }

    /// All rows of a CSV, after a check.
    static List<Row> rows(Csv csv) {
        var index = Index.of(csv, _ -> {});
        var all = new BitSet();
        all.set(0, index.rows());
        var rows = new ArrayList<Row>();
        csv.rows(all, index::fingerprint).forEachRemaining(rows::add);
        return rows;
    }

    /// The figures of a session that is to run so many rows.
    static Tally tally(int rows, InstantSource clock) {
        var all = new BitSet();
        all.set(0, rows);
        var batch = new Batch(null, Optional.empty(), new Index(), null, null);
        var wanted = new Batch.SessionRows(batch, all, Map.of(), Batch.Selection.LISTED);
        return new Tally(wanted, new Pace(5), clock);
    }

    static Event.AttemptEvent attempt(int second, String id, String user) {
        return new Event.AttemptEvent(NOON.plusSeconds(second), id, 0, user, Mode.STREAMING, "", false);
    }

    static Event.EndEvent end(int second, String id, String user, String outcome, String run,
            String error) {
        var cost = new Cost(10, new BigDecimal("0.5"), "USD");
        var seen = new Event.EndEvent.LastResponse(run, 0, error, 1, cost, null, "");
        return new Event.EndEvent(NOON.plusSeconds(second), id, user, outcome, "", seen, false);
    }

    /// The end of an attempt that has succeeded, as of this line in the results.
    static Event.SuccessEvent succeeded(int second, ResultLine line) {
        return Event.SuccessEvent.of(line, LineFile.checksum(line.json()), NOON.plusSeconds(second));
    }

    static final Response.Refused THROTTLED = http(400, "invalid_param",
            "Too many requests. Please try again later. The current maximum concurrent requests allowed for app is 2.");
    static final LookUpResult ABSENT = new LookUpResult.Absent();

    /// A look-up with a deadline so many seconds after its attempt.
    static LookUp lookUp(Attempt attempt, Response response, Verdict.Unresolved reason, long seconds) {
        return new LookUp(attempt, Purpose.OUTCOME, response, reason)
                .setTimes(attempt.at(), attempt.at().plusSeconds(seconds));
    }

    /// A look-up after a cut.
    static LookUp lookUp(Attempt attempt, Response.Cut cut, long seconds) {
        return lookUp(attempt, cut, new Verdict.Unresolved(cut.symptom(), cut.why()), seconds);
    }

    /// What the engine knows of a server that lists its runs at this time, and of an attempt that nothing has passed.
    static LookUpRules.LookUpContext here(Release.Listing listing) {
        return new LookUpRules.LookUpContext(listing, Optional.empty(), false, RowStatus.PENDING, Duration.ZERO);
    }

    static LookUpResult running(String id) {
        return new LookUpResult.Running(new RunRef(id, ""), RunStatus.RUNNING, Optional.empty(), Duration.ZERO);
    }

    /// Measured by the server's clock.
    static LookUpResult running(String id, Duration age) {
        return running(id, age, Duration.ZERO);
    }

    /// A look-up names no task.
    static LookUpResult running(String id, Duration age, Duration moved) {
        return new LookUpResult.Running(new RunRef(id, ""), RunStatus.RUNNING, Optional.of(age), moved);
    }

    static LookUpResult ended(Response.Ran ran) {
        return new LookUpResult.Ended(ran, Map.of("text", "as recorded"), Optional.empty());
    }

    /// The time of the tests. It passes only while the engine waits for its mailbox: until the next planned event, or
    /// as long as the engine wants. Workers are threads but take turns with the engine's: one runs, the others wait.
    static final class World implements Executor {
        private static final ScopedValue<Worker> SELF = ScopedValue.newInstance();

        private final PriorityQueue<Plan> plans =
                new PriorityQueue<>(Comparator.comparing(Plan::at).thenComparing(Plan::order));
        private Instant start = NOON;
        private volatile Instant now = NOON;
        private long order = 0, waits = 0;
        private final Set<Worker> asleep = ConcurrentHashMap.newKeySet();
        private volatile boolean isOver = false;
        int mostWaits = 10_000;
        /// Runs on the engine's thread whenever it waits for its mailbox.
        Runnable eachWait = () -> {};

        private record Plan(Instant at, long order, Runnable what) {}

        private record Worker(Semaphore go, Semaphore back) {}

        final InstantSource clock = () -> now;

        final BlockingQueue<Runnable> mailbox = new LinkedBlockingQueue<>() {
            @Override
            public Runnable poll(long timeout, TimeUnit unit) {
                var until = now.plusNanos(unit.toNanos(timeout));
                eachWait.run();
                while (isEmpty() && !plans.isEmpty() && !plans.peek().at().isAfter(until)) {
                    var plan = plans.remove();
                    if (plan.at().isAfter(now)) now = plan.at();
                    plan.what().run();
                }
                if (isEmpty()) now = until;
                if (waits++ > mostWaits) throw new AssertionError("the engine does not come to an end");
                return poll();
            }
        };

        Instant now() {
            return now;
        }

        long waits() {
            return waits;
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

        /// Lets that time pass as if an engine waited for its mailbox.
        void advance(Duration time) {
            mailbox.clear();
            try {
                mailbox.poll(time.toNanos(), TimeUnit.NANOSECONDS);
            } catch (InterruptedException problem) {
                throw new IllegalStateException(problem);
            }
        }

        /// Starts a worker, and returns when it has ended or waits.
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

        /// Lets a worker wait that long.
        void pass(Duration time) throws InterruptedException {
            var worker = SELF.get();
            in(time, () -> wake(worker));
            sleep(worker);
        }

        /// Lets a worker wait until someone runs the result, which wakes it a moment later.
        void waitFor(Consumer<Runnable> alarm) throws InterruptedException {
            var worker = SELF.get();
            alarm.accept(() -> in(Duration.ofMillis(100), () -> wake(worker)));
            sleep(worker);
        }

        /// An interrupt takes effect when the wait is over, so that a schedule can be repeated.
        private void sleep(Worker worker) throws InterruptedException {
            asleep.add(worker);
            worker.back().release();
            worker.go().acquireUninterruptibly();
            asleep.remove(worker);
            if (isOver || Thread.interrupted()) throw new InterruptedException();
        }

        /// Ends the workers that still wait, which would take memory for good.
        void end() {
            isOver = true;
            asleep.forEach(worker -> worker.go().release());
        }

        private static void wake(Worker worker) {
            worker.go().release();
            worker.back().acquireUninterruptibly();
        }
    }

    /// The workflow's answer to one attempt.
    @FunctionalInterface interface Answer {
        Response to(Attempt attempt, Consumer<StreamEvent> listener) throws InterruptedException;

        /// Answers in order, and no more.
        static Answer inTurn(Response... answers) {
            var left = new ArrayDeque<>(List.of(answers));
            return (_, _) -> left.remove();
        }

        /// Gives each row its own answers in order, then successes.
        static Answer byRow(Map<String, List<Response>> answers) {
            var left = new HashMap<String, Deque<Response>>();
            answers.forEach((id, list) -> left.put(id, new ArrayDeque<>(list)));
            return (attempt, _) -> {
                var own = left.getOrDefault(attempt.row().id(), new ArrayDeque<>());
                return own.isEmpty() ? succeeded("run-" + attempt.row().id()) : own.remove();
            };
        }
    }

    /// A batch in a folder, a scripted workflow, and an engine between them, like one call of the tool.
    /// Calls on the same folder run one after the other, as a user's do.
    static final class Scene implements Workflow, Engine.Watcher {
        final World world = new World();
        final Path csv, output;
        // in real time, workers run at once
        final List<Attempt> sent = Collections.synchronizedList(new ArrayList<>());
        final List<Question> looked = Collections.synchronizedList(new ArrayList<>());
        final List<Instant> probes = new ArrayList<>();
        final List<String> stopped = new ArrayList<>(), said = new ArrayList<>(), heard = new ArrayList<>();
        final Map<String, Runnable> alarms = new HashMap<>();
        Answer answer = (attempt, _) -> succeeded("run-" + attempt.row().id());
        Function<Question, LookUpResult> found = _ -> ABSENT;
        Supplier<Optional<Response>> probed = Optional::empty;
        /// Saves the files of a row's outputs; null without `--save-files`.
        Function<String, Response.SavedFiles> files = null;
        Duration lookTakes = Duration.ZERO;
        Batch.Selection selection = Batch.Selection.PENDING;
        Backoff backoff = BACKOFF;
        RetryRuns failedRuns = RetryRuns.TRANSIENT;
        List<String> require = List.of();
        Mode mode = Mode.BLOCKING;
        Duration settle = null; // as if not typed
        Ceiling maxFailures = null;
        Rate rate = null;
        Long maxTokens = null;
        BigDecimal maxCost = null;
        Duration wait = null, timeout = seconds(300), grace = seconds(20);
        Workflow workflow = this;
        boolean inRealTime = false;
        /// Replaces the ports of the world, if somebody else schedules the threads.
        Optional<Engine.Ports> ports = Optional.empty();
        LineFile.Disk disk = (_, _) -> {};
        AppKind app = AppKind.WORKFLOW;
        String server = "1.14.2";
        boolean resendUnknown = false, rerunChanged = false;
        /// Edits of the shell.
        UnaryOperator<Row> edits = UnaryOperator.identity();
        int slots = 1, busy = 0, busiest = 0, looking = 0, mostLooks = 0;
        /// Counted down when the engine ends the process.
        final CountDownLatch halted = new CountDownLatch(1);
        Engine engine;
        Pace pace;
        Tally tally;
        Consumer<Tally> watched = _ -> {};
        /// Receives the id of a row whose outcome is shown.
        Consumer<String> shown = _ -> {};

        Scene(Path folder, String rows) throws IOException {
            this(folder, rows, "results.jsonl");
        }

        /// @param output the name of the results, which can be a shard's
        Scene(Path folder, String rows, String output) throws IOException {
            csv = folder.resolve("data.csv");
            this.output = folder.resolve(output);
            Files.writeString(csv, rows);
        }

        /// A batch of rows with only an id.
        static Scene of(Path folder, String... ids) throws IOException {
            return new Scene(folder, "id\n" + String.join("\n", ids) + "\n");
        }

        /// Rows `1` to `count`.
        static Scene numbered(Path folder, int count) throws IOException {
            return of(folder, IntStream.rangeClosed(1, count).mapToObj(String::valueOf).toArray(String[]::new));
        }

        /// A stream whose first event has the run's id, and which ends that much later.
        Answer streamed(String run, Duration time, Response end) {
            return (_, listener) -> {
                listener.accept(new StreamEvent.Began(Given.run(run)));
                world.pass(time);
                return end;
            };
        }

        /// Plays one call to its end. Returns why it stopped early.
        Optional<Stop> play() throws Exception {
            try (var batch = open()) {
                prepare(batch);
                return engine.runAndWrite();
            }
        }

        BatchWriter open() {
            var rows = Batch.ofRows(BatchFiles.of(output), Csv.open(csv, Csv.Shape.DEFAULT)
                    .withCompared(BatchFiles.of(output).choices().compared()).with(edits));
            var notes = new PrintWriter(Writer.nullWriter());
            return BatchWriter.open(rows, new BatchWriter.OpenOptions(false, false, notes), disk);
        }

        Optional<Stop> play(BatchWriter writer) throws Exception {
            prepare(writer);
            return engine.run();
        }

        void prepare(BatchWriter writer) throws IOException {
            var batch = writer.batch;
            var asked = selection.with(Choice.RESEND_UNKNOWN, resendUnknown).with(Choice.RERUN_CHANGED, rerunChanged);
            var session = new Work.Session(new ServerInfo("", app, server), new AppClaim("1-2", "", ""),
                    Form.ofText(), batch.history().modePolicy(mode, app, server), mode == Mode.AUTO,
                    new Judge(backoff, failedRuns, ACCESS, List.of()));
            engine = work().engine(session, batch.select(asked), writer, terms -> {
                pace = terms.pace();
                return inRealTime ? Engine.Ports.ofProcess(workflow, this) : ports.orElseGet(() -> new Engine.Ports(
                        workflow, this, world.clock, world.mailbox, world, halted::countDown));
            });
            tally = engine.tally;
        }

        /// As `run` reads its command line, which takes as long as a short session, so once for all.
        private static final Work TYPED = typed();

        private static Work typed() {
            var line = commandLine(env(Map.of()), "run");
            line.parseArgs("run", "-i", "data.csv", "-o", "results.jsonl");
            return ((Run) line.getSubcommands().get("run").getCommand()).work;
        }

        /// The options of `run` with those of the scene.
        private Work work() {
            var work = new Work();
            work.setup = TYPED.setup;
            work.retrying.user = TYPED.retrying.user;
            work.workflow.require = require;
            work.pace.concurrency = (long) slots;
            work.pace.maxFailures = maxFailures;
            work.pace.maxTokens = maxTokens;
            work.pace.maxCost = maxCost;
            work.pace.wait = wait;
            work.pace.rate = rate;
            work.retrying.timeout = timeout;
            work.retrying.grace = grace;
            work.retrying.settle = settle;
            return work;
        }

        /// A call that dies after its workflow got `after` requests; its open attempts remain in the log.
        void crash(int after) {
            var before = answer;
            answer = (attempt, listener) -> {
                var response = before.to(attempt, listener);
                if (sent.size() >= after) throw new IllegalStateException("the power fails");
                return response;
            };
            assertThrows(IllegalStateException.class, this::play);
            answer = before;
            sent.clear();
        }

        @Override
        public Response run(Attempt attempt, Consumer<StreamEvent> listener) {
            sent.add(attempt);
            busiest = Math.max(busiest, ++busy);
            try {
                return answer.to(attempt, listener);
            } catch (InterruptedException _) {
                return cut(Symptom.NO_RESPONSE);
            } finally {
                busy--;
            }
        }

        @Override
        public boolean uploadsFiles() {
            return false;
        }

        @Override
        public LookUpResult look(Question question) {
            looked.add(question);
            mostLooks = Math.max(mostLooks, ++looking);
            try {
                if (lookTakes.isPositive()) world.pass(lookTakes);
                return found.apply(question);
            } catch (InterruptedException _) {
                return new LookUpResult.Inconclusive(cut(Symptom.NO_RESPONSE));
            } finally {
                looking--;
            }
        }

        @Override
        public boolean savesFiles() {
            return files != null;
        }

        @Override
        public Response.Ran save(Attempt attempt, Response.Ran ran) {
            return ran.with(files.apply(attempt.row().id()));
        }

        @Override
        public Optional<Response> probe() {
            probes.add(world.now());
            return probed.get();
        }

        /// Lets each row's files take that long. Returns the largest number of rows that save files at a time.
        AtomicInteger downloads(Duration time) {
            var now = new AtomicInteger();
            var most = new AtomicInteger();
            files = _ -> {
                most.accumulateAndGet(now.incrementAndGet(), Math::max);
                wait(time);
                now.decrementAndGet();
                return Response.SavedFiles.NONE;
            };
            return most;
        }

        /// Lets a worker wait that long.
        void wait(Duration time) {
            try {
                world.pass(time);
            } catch (InterruptedException problem) {
                throw new IllegalStateException(problem);
            }
        }

        @Override
        public void stop(RunRef run, String user) {
            stopped.add(run.task());
            alarms.getOrDefault(run.task(), () -> {}).run();
        }

        @Override
        public void watch(Tally tally) {
            watched.accept(tally);
        }

        @Override
        public void onStreamEvent(StreamEvent.Live word) {
            heard.add(word.toString());
        }

        @Override
        public void onOutcome(Row row, Outcome outcome, Response response) {
            response.run().map(RunRef::id).ifPresent(heard::add);
            shown.accept(row.id());
        }

        @Override
        public void say(String sentence) {
            said.add(sentence);
        }

        @Override
        public void end() {}

        void interruptAfter(Duration time) {
            world.in(time, () -> engine.interrupt("INT"));
        }

        /// A stream that starts its run and continues until the run is asked to stop.
        Response untilStopped(RunRef run, Consumer<StreamEvent> listener) throws InterruptedException {
            listener.accept(new StreamEvent.Began(run));
            world.waitFor(alarm -> alarms.put(run.task(), alarm));
            return new Response.Ran(run, RunStatus.FAILED, outputs("{}"),
                    "Aborted: User requested stop", "workflow-1", Usage.NONE);
        }

        List<String> ids() {
            return sent.stream().map(attempt -> attempt.row().id()).toList();
        }

        Path file(String suffix) {
            return output.resolveSibling(output.getFileName() + suffix);
        }

        List<JsonNode> log() throws IOException {
            var lines = new ArrayList<JsonNode>();
            for (var line : Files.readAllLines(file(".log"))) lines.add(tree(line));
            return lines;
        }

        static List<String> texts(String field, List<JsonNode> lines) {
            return lines.stream().map(line -> line.path(field).asText()).toList();
        }

        List<JsonNode> log(String event) throws IOException {
            return log().stream().filter(line -> line.path("event").asText().equals(event)).toList();
        }

        /// How each attempt of a row ended, by time.
        private List<JsonNode> ends(String id) throws IOException {
            return log("end").stream().filter(end -> end.path("id").asText().equals(id))
                    .sorted(Comparator.comparing(Scene::time)).toList();
        }

        private static Instant time(JsonNode end) {
            return Instant.parse(end.path("t").asText());
        }

        /// The outcome of each attempt of a row.
        List<String> outcomes(String id) throws IOException {
            return texts("outcome", ends(id));
        }

        String error(String id) throws IOException {
            return ends(id).getLast().path("error").asText();
        }

        /// The time from a row's first attempt to its last known end.
        Duration took(String id) throws IOException {
            var first = sent.stream().filter(attempt -> attempt.row().id().equals(id)).findFirst().orElseThrow().at();
            return Duration.between(first, end(id));
        }

        Instant end(String id) throws IOException {
            return time(ends(id).getLast());
        }

        List<JsonNode> results() throws IOException {
            var lines = new ArrayList<JsonNode>();
            for (var line : Files.readString(output).replace("\uFEFF", "").lines().toList())
                lines.add(tree(line));
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

    /// Returns that many bytes per read, like a slow line.
    static InputStream inPieces(String text, int size) {
        return new FilterInputStream(new ByteArrayInputStream(text.getBytes(UTF_8))) {
            @Override
            public int read(byte[] into, int from, int length) throws IOException {
                return super.read(into, from, Math.min(length, size));
            }
        };
    }
}
