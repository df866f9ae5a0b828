///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Plays a Dify server of version 1.9.2, 1.14.2 or 1.16.0 over real HTTP, with the misbehaviour asked for.
//SOURCES ../DifyExec.java
//SOURCES SimulatedForm.java
//SOURCES SimulatedFiles.java
//SOURCES SimulatedGraph.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;

import module java.base;

import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.stream.Collectors.joining;

/// A Dify server with one workflow app, for tests and benchmarks: what it answers, field for field, is the demo's
/// ([DifyExec.Demo]); what may go wrong, and when, is told here.
///
/// Every start of a row (its `id`) rolls one die, made of the seed, the id and the count of its starts: the same rows
/// meet the same trouble in whatever order they come. A run goes on whatever its client does. Connections are served by
/// hand, not by the JDK's server: only so is the eleventh left waiting without a sign, and a chunk cut in its middle.
@Command(name = "simulator", mixinStandardHelpOptions = true, version = "simulator of Dify 1.9.2, 1.14.2 and 1.16.0",
        sortOptions = false, usageHelpWidth = 100,
        description = {"Plays a Dify server over real HTTP. The first line on stdout is its address; any key that "
                + "begins with app- is let in. GET /__stats counts the runs of each row (?rows=0: only the sums).", "",
                "A share is 3%% or 0.03, and is rolled at each start of a row. A row asks for the same trouble by "
                + "name, in any of its inputs: [drop-before] meets its first start, [drop-before!] every one; "
                + "also [latency 5s] and [queue 10s].", ""},
        footer = {"", "Example: ./jbang simulator --port 5001 --dify 1.14.2 --latency 200ms --drop-after 5%%"})
final class Simulator implements Callable<Integer> {
    @Option(names = "--port", paramLabel = "N", defaultValue = "0", description = "0: any free port.")
    int port;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.14.2",
            description = DifyExec.Demo.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    DifyExec.Demo.Version version;

    @Option(names = "--columns", paramLabel = "A,B", split = ",", defaultValue = "id,text",
            description = "The workflow's variables, all of them text; others are dropped (default: ${DEFAULT-VALUE}).")
    List<String> columns;

    @Option(names = "--form", paramLabel = "FILE",
            description = "The workflow's variables in their own types, as user_input_form in an answer of GET "
                    + "/v1/parameters; runs whose inputs do not fit are refused as Dify refuses them.")
    Path form;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1", description = "Of latencies and trouble.")
    long seed;

    @Option(names = "--latency", paramLabel = "S", defaultValue = "100ms",
            description = "How long a run takes (default: ${DEFAULT-VALUE}).")
    Duration latency;

    @Option(names = "--jitter", paramLabel = "S", defaultValue = "0", description = "Up to so much longer.")
    Duration jitter;

    @Option(names = "--queue", paramLabel = "S|S..S", defaultValue = "0",
            description = "Streams from 1.14.2 on: a run starts so much later, its client there or not; silence until "
                    + "then.")
    Span queue;

    @Option(names = "--silence", paramLabel = "S", defaultValue = "300s",
            description = "Streams from 1.14.2 on end so long after their last event, if none was the end (default: "
                    + "${DEFAULT-VALUE}).")
    Duration silence;

    @Option(names = "--speed", paramLabel = "N", defaultValue = "1",
            description = "All times of runs and streams pass so many times faster.")
    int speed;

    @Option(names = "--places", paramLabel = "N", defaultValue = "0",
            description = "Connections served at a time: idle, abandoned and lingering ones count. A default Dify has "
                    + "10 (default: no limit).")
    int places;

    @Option(names = "--limit", paramLabel = "N", defaultValue = "0",
            description = "The app's limit of active requests: 400 'Too many requests.' above it; from 1.14.2 "
                    + "on streams are not limited, but by 1 all refused (default: no limit).")
    int limit;

    @Option(names = "--drop-before", paramLabel = "P", description = "Cut before the first event; the run goes on.")
    Share dropBefore = Share.NONE;

    @Option(names = "--drop-after", paramLabel = "P", description = "Cut after the first event, or within the answer.")
    Share dropAfter = Share.NONE;

    @Option(names = "--lose-finish", paramLabel = "P",
            description = "No workflow_finished: the stream ends without (from 1.14.2 on: after --silence); no "
                    + "blocking answer.")
    Share loseFinish = Share.NONE;

    @Option(names = "--gateway", paramLabel = "P",
            description = "502, 503 or 504 of a proxy (HTML, no X-Version); the run goes on.")
    Share gateway = Share.NONE;

    @Option(names = "--error-500", paramLabel = "P", description = "JSON 500 of Dify after the run began; it goes on.")
    Share error500 = Share.NONE;

    @Option(names = "--never", paramLabel = "P",
            description = "The run says running for ever, and is never answered; a stream from 1.14.2 on is silent: "
                    + "its worker was killed.")
    Share never = Share.NONE;

    @Option(names = "--lost", paramLabel = "P",
            description = "Taken and lost in a crash: no run, no trace, no answer (streams from 1.14.2 on: a ping, "
                    + "then silence).")
    Share lost = Share.NONE;

    @Option(names = "--throttle", paramLabel = "P", description = "400 'Too many requests.', nothing is started.")
    Share throttle = Share.NONE;

    @Option(names = "--refuse", paramLabel = "P",
            description = "The inputs are refused; streams of 1.14.2 say so inside, and stay open for --silence; "
                    + "those of 1.16.0 make up a run that failed, and end.")
    Share refuse = Share.NONE;

    @Option(names = "--fail", paramLabel = "P", description = "The run fails for good.")
    Share fail = Share.NONE;

    @Option(names = "--flaky", paramLabel = "P", description = "The run fails by a model's rate limit.")
    Share flaky = Share.NONE;

    @Option(names = "--partial", paramLabel = "P", description = "The run ends partial-succeeded.")
    Share partial = Share.NONE;

    @Option(names = "--stopped", paramLabel = "P",
            description = "Answered as stopped by the time limit; the run goes on and succeeds later (1.16.0: is "
                    + "stored as stopped, too).")
    Share stopped = Share.NONE;

    @Option(names = "--kill", paramLabel = "P",
            description = "The process that has the request is killed in the middle of the run: no answer; a stream "
                    + "from 1.14.2 on is cut and its run goes on, other runs say running for ever; slots stay taken.")
    Share kill = Share.NONE;

    @Option(names = "--false-fail", paramLabel = "P",
            description = "Answered as failed by a rate limit; the run goes on and succeeds later.")
    Share falseFail = Share.NONE;

    @Option(names = "--other-end", paramLabel = "P",
            description = "A stream tells the end of another run; its own goes on.")
    Share otherEnd = Share.NONE;

    @Option(names = "--error-first", paramLabel = "P",
            description = "A stream tells an error and then the end of its run.")
    Share errorFirst = Share.NONE;

    @Option(names = "--step-limit", paramLabel = "P",
            description = "The run meets the limit of steps, its outputs complete: told as failed (1.16.0: as "
                    + "stopped), stored as stopped.")
    Share stepLimit = Share.NONE;

    @Option(names = "--time-limit", paramLabel = "P",
            description = "The run meets the engine's limit of time, in 1.9.2 before its outputs; told and stored so.")
    Share timeLimit = Share.NONE;

    @Option(names = "--broken", paramLabel = "P",
            description = "Streams of 1.16.0 break: a failed end is made up; the run is stored as succeeded.")
    Share broken = Share.NONE;

    @Option(names = "--broken-running", paramLabel = "P", description = "The same, in the middle: the run goes on.")
    Share brokenRunning = Share.NONE;

    @Option(names = "--broken-absent", paramLabel = "P", description = "The same, before its run: there is none.")
    Share brokenAbsent = Share.NONE;

    @Option(names = "--worker-ended", paramLabel = "P",
            description = "The worker is asked to end in the middle of the run: streams of 1.16.0 end as stopped, and "
                    + "are stored so.")
    Share workerEnded = Share.NONE;

    @Option(names = "--restart-worker", paramLabel = "S", defaultValue = "0",
            description = "Every S the worker is asked to end, and another one comes: the same for all streams of "
                    + "1.16.0 that run (default: never).")
    Duration restartWorker;

    @Option(names = "--kill-worker", paramLabel = "S", defaultValue = "0",
            description = "Every S the worker is killed, and another one comes: the runs of all streams from 1.14.2 on "
                    + "say running for ever (default: never).")
    Duration killWorker;

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(commandLine().execute(args));
    }

    static CommandLine commandLine() {
        return new CommandLine(new Simulator()).setOverwrittenOptionsAllowed(true)
                .registerConverter(Duration.class, new DifyExec.Durations())
                .registerConverter(DifyExec.Demo.Version.class, Simulator::version)
                .registerConverter(Share.class, Share::of).registerConverter(Span.class, Span::of);
    }

    @Override
    public Integer call() throws Exception {
        var dify = new Dify(behaviour());
        try (var server = Server.start(port, places, dify)) {
            every(restartWorker, dify::endWorker);
            every(killWorker, dify::killWorker);
            spec.commandLine().getOut().println(server.baseUrl());
            spec.commandLine().getOut().flush();
            Thread.currentThread().join(); // until it is ended from outside
        }
        return 0;
    }

    private static void every(Duration period, Runnable what) {
        if (period.isPositive()) Executors.newSingleThreadScheduledExecutor(Thread.ofPlatform().daemon().factory())
                .scheduleAtFixedRate(what, period.toMillis(), period.toMillis(), MILLISECONDS);
    }

    Behaviour behaviour() {
        var shares = new EnumMap<Fault, Share>(Fault.class);
        shares.put(Fault.DROP_BEFORE, dropBefore);
        shares.put(Fault.DROP_AFTER, dropAfter);
        shares.put(Fault.LOSE_FINISH, loseFinish);
        shares.put(Fault.GATEWAY, gateway);
        shares.put(Fault.ERROR_500, error500);
        shares.put(Fault.NEVER, never);
        shares.put(Fault.LOST, lost);
        shares.put(Fault.THROTTLE, throttle);
        shares.put(Fault.REFUSE, refuse);
        shares.put(Fault.FAIL, fail);
        shares.put(Fault.FLAKY, flaky);
        shares.put(Fault.PARTIAL, partial);
        shares.put(Fault.STOPPED, stopped);
        shares.put(Fault.FALSE_FAIL, falseFail);
        shares.put(Fault.OTHER_END, otherEnd);
        shares.put(Fault.ERROR_FIRST, errorFirst);
        shares.put(Fault.KILL, kill);
        shares.put(Fault.STEP_LIMIT, stepLimit);
        shares.put(Fault.TIME_LIMIT, timeLimit);
        shares.put(Fault.BROKEN, broken);
        shares.put(Fault.BROKEN_RUNNING, brokenRunning);
        shares.put(Fault.BROKEN_ABSENT, brokenAbsent);
        shares.put(Fault.WORKER_ENDED, workerEnded);
        if (speed < 1) throw new ParameterException(spec.commandLine(), "--speed=" + speed + " is not 1 or more");
        return new Behaviour(version, fields(), seed, new Pace(speed), latency, jitter, queue, silence, limit, shares);
    }

    private JsonNode fields() {
        if (form == null) return Published.texts(columns);
        try {
            var read = new ObjectMapper().readTree(form.toFile());
            return read.isArray() ? read : read.path("user_input_form");
        } catch (IOException problem) {
            throw new ParameterException(spec.commandLine(), form + " is not a form: " + problem.getMessage());
        }
    }

    private static DifyExec.Demo.Version version(String number) {
        return Stream.of(DifyExec.Demo.Version.values()).filter(version -> version.number.equals(number)).findFirst()
                .orElseThrow(() -> new TypeConversionException("'" + number + "' is not "
                        + DifyExec.Demo.VERSIONS));
    }

    // ── What a row meets ────────────────────────────────────────────────────────────────────────────────────────────

    /// Out of all starts: `3%` or `0.03`.
    record Share(double of) {
        static final Share NONE = new Share(0);

        static Share of(String text) {
            var match = Pattern.compile("(\\d+(?:\\.\\d+)?)(%?)").matcher(text.strip());
            var share = match.matches() ? Double.parseDouble(match.group(1)) / (match.group(2).isEmpty() ? 1 : 100) : 2;
            if (share > 1) throw new TypeConversionException("'" + text + "' is not a share like 3% or 0.03");
            return new Share(share);
        }
    }

    /// A time, or one between two: `5s`, `0..20s`.
    record Span(Duration from, Duration to) {
        static Span of(String text) {
            var ends = text.split("\\.\\.", 2);
            var durations = new DifyExec.Durations();
            var to = durations.convert(ends[ends.length - 1]);
            return new Span(ends.length == 1 ? to : durations.convert(ends[0]), to);
        }

        Duration at(double share) {
            return from.plusMillis((long) (share * to.minus(from).toMillis()));
        }
    }

    /// What can go wrong with one start of a row.
    enum Fault {
        NONE, DROP_BEFORE, DROP_AFTER, LOSE_FINISH, GATEWAY, ERROR_500, NEVER, LOST, THROTTLE, REFUSE, FAIL, FLAKY,
        PARTIAL, STOPPED, FALSE_FAIL, OTHER_END, ERROR_FIRST, KILL, STEP_LIMIT, TIME_LIMIT, BROKEN, BROKEN_RUNNING,
        BROKEN_ABSENT, WORKER_ENDED;

        String word() {
            return name().toLowerCase(Locale.ROOT).replace('_', '-');
        }

        /// Met only by streams of 1.16.0.
        boolean isOfNewStreams() {
            return this == BROKEN || this == BROKEN_RUNNING || this == BROKEN_ABSENT || this == WORKER_ENDED;
        }
    }

    /// How one start goes. `die` chooses among the ways in which a fault shows.
    record Fate(Fault fault, Duration queue, Duration latency, int die) {}

    /// How fast time passes: `times` as fast as on a wall.
    record Pace(int times) {
        void pause(Duration time) throws InterruptedException {
            Thread.sleep(time.dividedBy(times));
        }

        long millis(Duration time) {
            return time.dividedBy(times).toMillis();
        }
    }

    /// `fields` is the form as `/parameters` tells it.
    record Behaviour(DifyExec.Demo.Version version, JsonNode fields, long seed, Pace pace, Duration latency,
                     Duration jitter, Span queue, Duration silence, int limit, Map<Fault, Share> shares) {
        private static final Pattern TIMES = Pattern.compile("\\[(latency|queue) (\\d+(?:\\.\\d+)?(?:ms|s|m)?)]");

        /// The same with another form.
        Behaviour with(JsonNode fields) {
            return new Behaviour(version, fields, seed, pace, latency, jitter, queue, silence, limit, shares);
        }

        Fate fate(String id, int start, Map<?, ?> inputs) {
            var mixed = new SplittableRandom(seed ^ (long) id.hashCode() << 24 ^ start);
            var random = new SplittableRandom(mixed.nextLong());
            var fault = rolled(random.nextDouble());
            var latency = this.latency.plusMillis((long) (random.nextDouble() * jitter.toMillis()));
            var queue = this.queue.at(random.nextDouble());
            int die = random.nextInt(1 << 20);
            for (var value : inputs.values()) {
                if (!(value instanceof String text) || text.indexOf('[') < 0) continue;
                for (var each : Fault.values()) if (text.contains("[" + each.word() + "!]")
                        || start == 1 && text.contains("[" + each.word() + "]")) fault = each;
                for (var match : TIMES.matcher(text).results().toList()) {
                    var time = new DifyExec.Durations().convert(match.group(2));
                    if (match.group(1).equals("queue")) queue = time;
                    else latency = time;
                }
            }
            return new Fate(fault, queue, latency, die);
        }

        private Fault rolled(double die) {
            for (var share : shares.entrySet()) {
                die -= share.getValue().of();
                if (die < 0) return share.getKey();
            }
            return Fault.NONE;
        }
    }

    // ── Runs ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A version of the workflow as it was published: the form, and what it does. Without a graph it answers with its
    /// texts, as the demo does.
    record Published(DifyExec.Demo.App app, JsonNode fields, SimulatedForm form, Optional<SimulatedGraph> graph) {
        /// The form of a workflow whose variables are all text.
        static ArrayNode texts(List<String> columns) {
            var fields = new ObjectMapper().createArrayNode();
            for (var column : columns) fields.addObject().putObject("paragraph").put("label", column)
                    .putNull("max_length").put("required", false).put("type", "paragraph").put("variable", column)
                    .putArray("options");
            return fields;
        }

        static Published of(DifyExec.Demo.Version version, JsonNode fields, Optional<SimulatedGraph> graph,
                SimulatedFiles files) {
            var form = SimulatedForm.of(fields, version.hasWorker(), files);
            var app = DifyExec.Demo.App.of(version, form.names());
            return new Published(new DifyExec.Demo.App(version, form.names(), app.id(), UUID.randomUUID().toString(),
                    app.published()), fields, form, graph);
        }
    }

    /// One run, from when it was taken. What its own answer tells and what is stored can differ, also in time.
    static final class Job {
        private static final Map<String, Object> BY_LISTENER = Map.of("status", "stopped", "error", "Stopped by user.");
        private static final Map<String, Object> FALSELY = Map.of("status", "failed", "outputs", Map.of(),
                "error", "[openai] Rate Limit Error, 429 Too Many Requests");
        private static final String OF_TASK = "Aborted: App task was stopped";

        /// What ends a run before its time.
        private enum Halt { NONE, STOP, WORKER_ENDED, WORKER_KILLED }

        final String row, user;
        final Map<?, ?> given;
        final boolean streaming;
        final Fate fate;
        final Published version;
        final Instant taken = Instant.now();
        final boolean twice;
        /// The run as it began, and as it is stored and told at its end.
        final CompletableFuture<DifyExec.Demo.Run> began = new CompletableFuture<>();
        final CompletableFuture<DifyExec.Demo.Run> stored = new CompletableFuture<>();
        final CompletableFuture<Told> told = new CompletableFuture<>();
        /// What is told of a run that was paused and goes on.
        final CompletableFuture<Told> resumed = new CompletableFuture<>();
        /// Its worker is gone: nothing more is stored or told.
        final CompletableFuture<Void> killed = new CompletableFuture<>();
        /// Someone listens to a run that was paused.
        volatile boolean followed;
        private final CompletableFuture<Halt> halt = new CompletableFuture<>();
        private final Pace pace;
        /// What was stored otherwise than its state says.
        private volatile Map<String, Object> corrections = Map.of();
        /// The end of a run that was paused.
        private volatile DifyExec.Demo.Run again;

        /// How a run is told at its end; `corrections` hold in place of what its last word would say by itself.
        record Told(DifyExec.Demo.Run run, Optional<SimulatedGraph.Course> course, Map<String, Object> corrections) {
            private static Map<String, Object> corrected(Map<String, Object> whole, String part,
                    Map<String, Object> corrections) {
                var changed = new LinkedHashMap<String, Object>();
                ((Map<?, ?>) whole.get(part)).forEach((key, value) -> changed.put((String) key, value));
                changed.putAll(corrections);
                whole.put(part, changed);
                return whole;
            }

            Map<String, Object> blocking() {
                return corrected(run.blocking(), "data", corrections);
            }

            /// The last event, which ends the stream.
            Map<String, Object> last() {
                var files = SimulatedFiles.among(run.state().outputs());
                var event = corrected(run.closing().getLast(), "data", corrections);
                return files.isEmpty() ? event : corrected(event, "data", Map.of("files", files));
            }

            /// The events at the end.
            List<Map<String, Object>> closing() {
                var own = run.closing();
                var events = new ArrayList<>(course.map(SimulatedGraph.Course::closing)
                        .orElse(own.subList(0, own.size() - 1)));
                events.add(last());
                return events;
            }

            /// As someone who comes too late is told: in one event, under the run's own id.
            Map<String, Object> afterwards() {
                var event = DifyExec.Demo.object("event", "workflow_finished", "task_id", run.id());
                last().forEach(event::putIfAbsent);
                return event;
            }
        }

        Job(String row, Start start, boolean twice, Pace pace) {
            this.row = row;
            this.user = start.user();
            this.given = start.inputs();
            this.streaming = start.streaming();
            this.fate = start.fate();
            this.version = start.version();
            this.twice = twice;
            this.pace = pace;
        }

        boolean isFrom(DifyExec.Demo.Version first) {
            return version.app().version().isFrom(first);
        }

        boolean hasWorker() {
            return isFrom(DifyExec.Demo.Version.V1_14_2);
        }

        /// Waits as long as its fate or its graph says, unless it is halted before; runs on a thread of its own.
        void run(Map<String, Object> inputs, Runnable onBegin, Runnable onEnd) throws InterruptedException {
            pace.pause(fate.queue());
            var run = DifyExec.Demo.Run.begin(version.app(), user, inputs, Instant.now());
            began.complete(run);
            onBegin.run();
            boolean inWorker = streaming && hasWorker();
            if (!inWorker && (fate.fault() == Fault.NEVER || fate.fault() == Fault.KILL)) return;
            if (fate.fault() == Fault.NEVER) killWorker();
            if (fate.fault() == Fault.WORKER_ENDED) haltAfter(Halt.WORKER_ENDED, takes().dividedBy(2));
            switch (haltAfter(Halt.NONE, takes()).join()) {
                case NONE -> end(run, inputs, onEnd);
                case STOP -> stop(run, onEnd);
                case WORKER_ENDED -> shutDown(run, onEnd);
                case WORKER_KILLED -> killed.complete(null);
            }
        }

        private CompletableFuture<Halt> haltAfter(Halt what, Duration time) {
            return halt.completeOnTimeout(what, pace.millis(time), MILLISECONDS);
        }

        /// How long it takes, once begun.
        Duration takes() {
            return version.graph().map(graph -> graph.takes(began.join().inputs())).orElse(fate.latency());
        }

        private Optional<SimulatedGraph.Course> course(DifyExec.Demo.Run run) {
            return version.graph().map(graph -> graph.course(run));
        }

        List<Map<String, Object>> opening(DifyExec.Demo.Run run) {
            return course(run).map(SimulatedGraph.Course::opening).orElseGet(run::opening);
        }

        private void end(DifyExec.Demo.Run run, Map<String, Object> inputs, Runnable onEnd)
                throws InterruptedException {
            var text = inputs.values().stream().skip(1).map(value -> value instanceof String words ? words
                    : DifyExec.Demo.Encoding.SPACED.json(value)).collect(joining(" "));
            var outputs = DifyExec.Demo.object("answer", "Answer to: " + text, "row_id", inputs.get("id"),
                    "text", text);
            int tokens = 16 + text.length() / 3;
            var course = course(run);
            if (fate.fault() == Fault.FALSE_FAIL) {
                told.complete(halted(run.end(new DifyExec.Demo.State.Stopped(), 0, Instant.now()), FALSELY));
                pace.pause(takes());
            }
            if (fate.fault() == Fault.STEP_LIMIT || fate.fault() == Fault.TIME_LIMIT) {
                abort(run, course, onEnd);
                return;
            }
            if (fate.fault() == Fault.STOPPED && giveUp(run, onEnd)) return;
            var state = version.form().mismatch(inputs).<DifyExec.Demo.State>map(DifyExec.Demo.State.Failed::new)
                    .orElseGet(() -> switch (fate.fault()) {
                        case FAIL -> new DifyExec.Demo.State.Failed("Run failed: the model refused this input");
                        case FLAKY -> new DifyExec.Demo.State.Failed(
                                "[openai] Rate Limit Error, 429 Too Many Requests");
                        case PARTIAL -> new DifyExec.Demo.State.Partial(outputs,
                                "Reached maximum retries for URL http://x/");
                        default -> course.map(SimulatedGraph.Course::ending)
                                .orElse(new DifyExec.Demo.State.Succeeded(outputs));
                    });
            var ended = run.end(state, state instanceof DifyExec.Demo.State.Failed || course.isPresent() ? 0 : tokens,
                    Instant.now());
            stored.complete(ended);
            if (!isEndless()) onEnd.run(); // before anyone can learn that the run is over
            told.complete(new Told(ended, course, asked(ended)));
        }

        /// Paused in 1.9.2, which knows no way on.
        boolean isEndless() {
            return !hasWorker() && standing().equals("paused");
        }

        /// Stored as stopped, told as failed, and with the outputs if the End node was reached.
        private void abort(DifyExec.Demo.Run run, Optional<SimulatedGraph.Course> course, Runnable onEnd) {
            boolean early = fate.fault() == Fault.TIME_LIMIT && !hasWorker();
            var closing = course.map(SimulatedGraph.Course::closing).orElse(List.of());
            var seen = course.map(whole -> new SimulatedGraph.Course(whole.opening(),
                    early ? closing.subList(0, closing.size() - 2) : closing, whole.ending()));
            var outputs = course.filter(_ -> !early).map(whole -> whole.ending().outputs()).orElse(Map.of());
            var ended = store(run, "Aborted: Maximum execution " + (fate.fault() == Fault.STEP_LIMIT
                    ? "steps exceeded: 3 > 2" : "time exceeded: 2.53s > 1s"), outputs, onEnd);
            told.complete(new Told(ended, seen, corrections));
        }

        /// The listener's time is over, and it says so; the run goes on. True: 1.16.0 aborts it.
        private boolean giveUp(DifyExec.Demo.Run run, Runnable onEnd) throws InterruptedException {
            told.complete(halted(run.end(new DifyExec.Demo.State.Stopped(), 0, Instant.now()), BY_LISTENER));
            boolean isAborted = isFrom(DifyExec.Demo.Version.V1_16_0);
            pace.pause(isAborted ? Duration.ofMillis(500) : takes());
            if (isAborted) store(run, "Aborted: App execution exceeded 2 seconds", Map.of(), onEnd);
            return isAborted;
        }

        /// 1.16.0 aborts what its worker has in hand when that is asked to end.
        private void shutDown(DifyExec.Demo.Run run, Runnable onEnd) throws InterruptedException {
            pace.pause(Duration.ofMillis(200));
            var ended = store(run, "Aborted: Workflow stopped because the worker is shutting down.", Map.of(), onEnd);
            told.complete(halted(ended, corrections));
        }

        /// Stored as stopped, in words of its own.
        private DifyExec.Demo.Run store(DifyExec.Demo.Run run, String error, Map<String, Object> outputs,
                Runnable onEnd) {
            var ended = run.end(new DifyExec.Demo.State.Stopped(), 0, Instant.now());
            corrections = DifyExec.Demo.object("outputs", outputs, "error", error);
            stored.complete(ended);
            onEnd.run();
            return ended;
        }

        /// Told without the steps that were still to come.
        private Told halted(DifyExec.Demo.Run ended, Map<String, Object> corrections) {
            return new Told(ended, version.graph().map(_ -> new SimulatedGraph.Course(List.of(), List.of(), null)),
                    corrections);
        }

        /// The question of a paused run, in the words of its graph.
        private Map<String, Object> asked(DifyExec.Demo.Run run) {
            if (!(run.state() instanceof DifyExec.Demo.State.Paused) || version.graph().isEmpty()) return Map.of();
            return Map.of("reasons", List.of(reason(run)));
        }

        static Map<String, Object> reason(DifyExec.Demo.Run run) {
            var reason = new LinkedHashMap<String, Object>();
            var data = (Map<?, ?>) run.closing().getLast().get("data");
            ((Map<?, ?>) ((List<?>) data.get("reasons")).getFirst())
                    .forEach((key, value) -> reason.put((String) key, value));
            if (run.app().version().isFrom(DifyExec.Demo.Version.V1_16_0))
                reason.put("approval_channels", List.of("console"));
            reason.putAll(SimulatedGraph.question(run));
            return reason;
        }

        /// A person has answered: the run goes on to its end.
        void resume(String note) {
            var run = began.join();
            var course = version.graph().orElseThrow().resumed(run, note);
            if (isFrom(DifyExec.Demo.Version.V1_16_0)) {
                breakOff(run, course);
                return;
            }
            var ended = run.end(course.ending(), 0, Instant.now());
            again = ended;
            resumed.complete(new Told(ended, Optional.of(course), Map.of()));
        }

        /// 1.16.0 ends it at once, somewhere on its way; with outputs or without.
        private void breakOff(DifyExec.Demo.Run run, SimulatedGraph.Course course) {
            corrections = DifyExec.Demo.object("outputs", streaming ? course.ending().outputs() : Map.of(), "error",
                    followed ? OF_TASK : "Aborted: Client response stream closed before app execution completed");
            again = run.end(new DifyExec.Demo.State.Stopped(), 0, Instant.now());
            var start = course.closing().subList(0, 1);
            resumed.complete(new Told(again, Optional.of(new SimulatedGraph.Course(List.of(), start, null)),
                    BY_LISTENER));
        }

        Map<String, Object> detail() {
            var detail = now().orElseThrow().detail();
            if (isEndless()) detail.put("outputs", null);
            if (corrections.isEmpty()) return detail;
            var outputs = (Map<?, ?>) corrections.get("outputs");
            detail.put("error", corrections.get("error"));
            detail.put("outputs", hasWorker() ? outputs
                    : outputs.isEmpty() ? null : DifyExec.Demo.Encoding.SPACED.json(outputs));
            return detail;
        }

        Map<String, Object> logRow() {
            var row = now().orElseThrow().logRow();
            return corrections.isEmpty() ? row
                    : Told.corrected(row, "workflow_run", Map.of("error", corrections.get("error")));
        }

        /// Engine and listener race for it (20 stops on each server): the engine wins four of five. 1.9.2 is at times
        /// told before it is stored, and 1.16.0 where the listener wins; it then is stored in words of its own.
        private void stop(DifyExec.Demo.Run run, Runnable onEnd) throws InterruptedException {
            pace.pause(Duration.ofMillis(25 + fate.die() % 200));
            var ended = run.end(new DifyExec.Demo.State.Stopped(), 0, Instant.now());
            boolean byListener = fate.die() % 5 == 0, newly = byListener && isFrom(DifyExec.Demo.Version.V1_16_0);
            var told = halted(ended, byListener ? BY_LISTENER : Map.of());
            if (newly || !hasWorker() && fate.die() % 7 == 0) {
                this.told.complete(told);
                pace.pause(Duration.ofMillis(300));
            }
            if (newly) corrections = Map.of("outputs", Map.of(), "error", OF_TASK);
            stored.complete(ended);
            onEnd.run();
            this.told.complete(told);
        }

        void stop() {
            halt.complete(Halt.STOP);
        }

        /// Its worker is asked to end; before 1.16.0 that finishes first what it has begun.
        void endWorker() {
            if (streaming && isFrom(DifyExec.Demo.Version.V1_16_0) && began.isDone()) halt.complete(Halt.WORKER_ENDED);
        }

        void killWorker() {
            if (streaming && hasWorker() && began.isDone()) halt.complete(Halt.WORKER_KILLED);
        }

        /// As detail and log have it; nothing while it waits in the queue.
        Optional<DifyExec.Demo.Run> now() {
            return Optional.ofNullable(again).or(() -> Optional.ofNullable(stored.getNow(began.getNow(null))));
        }

        String standing() {
            return now().map(run -> run.state().stored()).orElse("queued");
        }

        /// It succeeded, or may do so yet.
        boolean isPaid() {
            return switch (standing()) {
                case "failed", "stopped" -> false;
                default -> true;
            };
        }
    }

    /// What 1.16.0 puts at the end of a stream that has none: a start, where there was none either, and a failed end.
    record MadeUp(String task, String run, Published version, Map<?, ?> given, String error) {
        private static final String NO_END = "Workflow stream ended without a terminal event";

        /// Of a run that never was.
        static MadeUp of(Start start, String error) {
            var id = UUID.randomUUID().toString();
            return new MadeUp(id, id, start.version(), start.inputs(), error);
        }

        static MadeUp of(Job job) {
            var run = job.began.join();
            return new MadeUp(run.task(), run.id(), job.version, job.given, NO_END);
        }

        Map<String, Object> started() {
            return event("workflow_started", "inputs", given, "created_at", now(), "reason", "initial");
        }

        Map<String, Object> finished() {
            return event("workflow_finished", "status", "failed", "outputs", null, "error", error,
                    "elapsed_time", new BigDecimal("0.0"), "total_tokens", 0, "total_steps", 0,
                    "created_by", Map.of(), "created_at", now(), "finished_at", now(), "exceptions_count", 1,
                    "files", List.of());
        }

        private static long now() {
            return Instant.now().getEpochSecond();
        }

        private Map<String, Object> event(String name, Object... more) {
            var data = DifyExec.Demo.object("id", run, "workflow_id", version.app().workflow());
            data.putAll(DifyExec.Demo.object(more));
            return DifyExec.Demo.object("event", name, "task_id", task, "workflow_run_id", run, "data", data);
        }
    }

    /// All runs, and what `/__stats` tells of them. Any thread may use it.
    static final class Ledger {
        private final Map<String, List<Job>> rows = new ConcurrentHashMap<>();
        private final Map<String, Integer> starts = new ConcurrentHashMap<>();
        private final Map<String, Job> byRun = new ConcurrentHashMap<>(), byTask = new ConcurrentHashMap<>();
        private final Map<String, Deque<Job>> listed = new ConcurrentHashMap<>();
        private final Deque<Job> log = new ConcurrentLinkedDeque<>();
        private final Set<Job> inLog = ConcurrentHashMap.newKeySet();
        private final Set<String> users = ConcurrentHashMap.newKeySet();
        private final Map<Fault, Integer> faults = new ConcurrentHashMap<>();
        final AtomicLong stops = new AtomicLong(), looks = new AtomicLong();

        int nextStart(String row) {
            return starts.merge(row, 1, Integer::sum);
        }

        void met(Fault fault, String user) {
            if (fault != Fault.NONE) faults.merge(fault, 1, Integer::sum);
            users.add(user);
        }

        /// A new run of a row; it is paid twice if one of the earlier ones succeeded or may still do so.
        Job take(String row, Start start, Pace pace) {
            var taken = new AtomicReference<Job>();
            rows.compute(row, (_, before) -> {
                var jobs = before == null ? new ArrayList<Job>(2) : new ArrayList<>(before);
                taken.set(new Job(row, start, jobs.stream().anyMatch(Job::isPaid), pace));
                jobs.add(taken.get());
                return List.copyOf(jobs);
            });
            return taken.get();
        }

        void began(Job job) {
            var run = job.began.join();
            byRun.put(run.id(), job);
            byTask.put(run.task(), job);
        }

        /// Makes it visible in the log, once.
        void list(Job job) {
            if (!inLog.add(job)) return;
            log.addFirst(job);
            listed.computeIfAbsent(job.user, _ -> new ConcurrentLinkedDeque<>()).addFirst(job);
        }

        void each(Consumer<Job> what) {
            rows.values().stream().flatMap(List::stream).forEach(what);
        }

        Optional<Job> withRun(String id) {
            return Optional.ofNullable(byRun.get(id));
        }

        Optional<Job> withTask(String id) {
            return Optional.ofNullable(byTask.get(id));
        }

        /// The log, newest first, of one user or, for an empty name, of all.
        Stream<Job> listed(String user) {
            return (user.isEmpty() ? log : listed.getOrDefault(user, new ConcurrentLinkedDeque<>())).stream()
                    .filter(job -> job.now().isPresent());
        }

        Map<String, Object> stats(boolean each) {
            var states = new TreeMap<String, Integer>();
            rows.values().stream().flatMap(List::stream).forEach(job -> states.merge(job.standing(), 1, Integer::sum));
            var met = new TreeMap<String, Object>();
            faults.forEach((fault, count) -> met.put(fault.word(), count));
            var stats = DifyExec.Demo.object("rows", rows.size(), "started", count(_ -> true),
                    "succeeded", count(Ledger::succeeded), "twice", count(job -> job.twice), "users", users.size(),
                    "stops", stops.get(), "looks", looks.get(), "states", states, "faults", met);
            if (each) stats.put("by_row", byRow());
            return stats;
        }

        private int count(Predicate<Job> which) {
            return (int) rows.values().stream().flatMap(List::stream).filter(which).count();
        }

        private static boolean succeeded(Job job) {
            return List.of("succeeded", "partial-succeeded").contains(job.standing());
        }

        private Map<String, Object> byRow() {
            var all = new TreeMap<String, Object>();
            rows.forEach((id, jobs) -> all.put(id, DifyExec.Demo.object("started", jobs.size(),
                    "succeeded", (int) jobs.stream().filter(Ledger::succeeded).count(),
                    "twice", (int) jobs.stream().filter(job -> job.twice).count(),
                    "runs", jobs.stream().map(Ledger::told).toList())));
            return all;
        }

        private static Map<String, Object> told(Job job) {
            return DifyExec.Demo.object("user", job.user, "run", job.now().map(DifyExec.Demo.Run::id).orElse(null),
                    "state", job.standing(), "fault", job.fate.fault().word(), "taken", job.taken.toString(),
                    "twice", job.twice);
        }
    }

    // ── The API ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @FunctionalInterface
    interface Action {
        /// `id` is the variable part of the path, or empty.
        void answer(Exchange exchange, String id) throws IOException, InterruptedException;
    }

    record Route(String method, Pattern path, Action action) {
        Route(String method, String path, Action action) {
            this(method, Pattern.compile(path), action);
        }
    }

    /// Which app is played, beside its form: its name, what it does (as the demo if there is no graph), what state it
    /// is in, and whether an address that a run names as a file answers.
    record Setup(String name, Optional<SimulatedGraph> graph, Kind kind, Predicate<URI> answers) {
        enum Kind { WORKFLOW, UNPUBLISHED, CHAT }

        static final Setup PLAIN = new Setup("simulated", Optional.empty(), Kind.WORKFLOW, _ -> true);
    }

    /// Who is let in; `FORGOTTEN`: the app is deleted, and its keys with it.
    enum Access { OPEN, DISABLED, DELETED, FORGOTTEN }

    /// The app's API: answers one exchange after another, by any thread.
    static final class Dify {
        private static final Duration PING_PERIOD = Duration.ofSeconds(10);
        private static final String PING = "event: ping\n\n";
        private static final ObjectMapper JSON = new ObjectMapper();

        private final Behaviour behaviour;
        private final Setup setup;
        private final boolean worker, makesUpEnds;
        private final Pace pace;
        private final SimulatedFiles files;
        private final Ledger ledger = new Ledger();
        private final AtomicInteger active = new AtomicInteger();
        private final Map<String, Published> versions = new ConcurrentHashMap<>();
        private final Set<String> deletedKeys = ConcurrentHashMap.newKeySet();
        private final String draft = UUID.randomUUID().toString();
        private volatile Published current;
        private volatile Access access = Access.OPEN;
        private final List<Route> routes;

        Dify(Behaviour behaviour) {
            this(behaviour, Setup.PLAIN);
        }

        Dify(Behaviour behaviour, Setup setup) {
            this.behaviour = behaviour;
            this.setup = setup;
            this.worker = behaviour.version().hasWorker();
            this.makesUpEnds = behaviour.version().isFrom(DifyExec.Demo.Version.V1_16_0);
            this.pace = behaviour.pace();
            this.files = new SimulatedFiles(setup.answers());
            this.routes = Stream.concat(shared(), worker ? newer() : Stream.of()).toList();
            publish(behaviour.fields(), setup.graph());
        }

        private Stream<Route> shared() {
            return Stream.of(new Route("GET", "/v1/info", this::info),
                    new Route("GET", "/v1/parameters", this::parameters),
                    new Route("GET", "/v1/meta", this::meta),
                    new Route("GET", "/v1/site", this::site),
                    new Route("POST", "/v1/files/upload", this::upload),
                    new Route("POST", "/v1/workflows/run", this::run),
                    new Route("GET", "/v1/workflows/run/([^/]+)", this::detail),
                    new Route("GET", "/v1/workflows/logs", this::logs),
                    new Route("POST", "/v1/workflows/tasks/([^/]+)/stop", this::stop),
                    new Route("POST", "/v1/workflows/([^/]+)/run", this::run));
        }

        private Stream<Route> newer() {
            return Stream.of(new Route("GET", "/v1/workflow/([^/]+)/events", this::events),
                    new Route("GET", "/v1/form/human_input/([^/]+)", this::question),
                    new Route("POST", "/v1/form/human_input/([^/]+)", this::answered));
        }

        /// Publishes another version of the workflow; runs that go on keep theirs. Gives its id.
        String publish(JsonNode fields, Optional<SimulatedGraph> graph) {
            var version = Published.of(behaviour.version(), fields, graph, files);
            versions.put(version.app().workflow(), version);
            current = version;
            return version.app().workflow();
        }

        /// The id of the version that is published now.
        String published() {
            return current.app().workflow();
        }

        /// The id of the version that is being edited.
        String draft() {
            return draft;
        }

        /// 1.14.2 forgets the keys of a deleted app at once, 1.16.0 within ten seconds, 1.9.2 not.
        void become(Access access) {
            boolean atOnce = access == Access.DELETED && behaviour.version() == DifyExec.Demo.Version.V1_14_2;
            this.access = atOnce ? Access.FORGOTTEN : access;
        }

        /// The worker is asked to end, as at each deployment; another one takes its place.
        void endWorker() {
            ledger.each(Job::endWorker);
        }

        /// The worker is killed; another one takes its place, which knows nothing of the runs of the first.
        void killWorker() {
            ledger.each(Job::killWorker);
        }

        void delete(String key) {
            deletedKeys.add(key);
        }

        Ledger ledger() {
            return ledger;
        }

        /// How long a connection may be idle; zero: for ever.
        Duration idle() {
            return worker ? Duration.ZERO : Duration.ofSeconds(2);
        }

        void answer(Exchange exchange) throws IOException, InterruptedException {
            if (exchange.path().equals("/__stats")) {
                exchange.send(200, "application/json", DifyExec.Demo.Encoding.ESCAPED
                        .json(ledger.stats(!exchange.query("rows").equals("0"))) + "\n");
                return;
            }
            if (exchange.method().equals("PRI")) {
                exchange.header("Connection", "close").send(400, worker ? "" : "text/html",
                        worker ? "" : "<html>\n  <head>\n    <title>Bad Request</title>\n  </head>\n</html>\n");
                return;
            }
            exchange.header("X-Version", behaviour.version().number).header("X-Env", "PRODUCTION");
            if (!worker) exchange.header("Server", "gunicorn").header("Connection", "keep-alive");
            try {
                route(exchange);
            } catch (DifyExec.Demo.Refused refused) {
                exchange.send((DifyExec.Demo.Reply.Whole) refused.reply);
            }
        }

        private void route(Exchange exchange) throws IOException, InterruptedException {
            if (exchange.path().contains("//") || exchange.path().equals("/v1")) {
                var place = exchange.path().equals("/v1") ? "/v1/" : exchange.path().replaceAll("/+", "/");
                exchange.header("Location", place).send(308, "text/html; charset=utf-8",
                        "<!doctype html>\n<title>Redirecting...</title>\n");
                return;
            }
            if (exchange.path().equals("/health")) {
                exchange.send(200, "application/json", DifyExec.Demo.Encoding.SPACED.json(DifyExec.Demo.object(
                        "pid", ProcessHandle.current().pid(), "status", "ok", "version", behaviour.version().number)));
                return;
            }
            var path = routes.stream().filter(each -> each.path().matcher(exchange.path()).matches()).toList();
            if (path.isEmpty()) throw new DifyExec.Demo.Refused(DifyExec.Demo.Reply.notFound());
            var methods = path.stream().map(Route::method).distinct().sorted().toList();
            if (exchange.method().equals("OPTIONS")) {
                exchange.header("Allow", "OPTIONS, " + String.join(", ", methods))
                        .send(200, "text/html; charset=utf-8", "");
                return;
            }
            var method = exchange.method().equals("HEAD") ? "GET" : exchange.method();
            var route = path.stream().filter(each -> each.method().equals(method)).findFirst().orElseThrow(() ->
                    new DifyExec.Demo.Refused(405, "method_not_allowed",
                            "The method is not allowed for the requested URL."));
            checkKey(exchange);
            var match = route.path().matcher(exchange.path());
            route.action().answer(exchange, match.matches() && match.groupCount() > 0 ? match.group(1) : "");
        }

        private void checkKey(Exchange exchange) {
            var words = exchange.headers().getOrDefault("authorization", "").strip().split("\\s+", 2);
            boolean known = words.length == 2 && words[1].startsWith("app-") && !deletedKeys.contains(words[1]);
            if (words.length < 2) throw unauthorized(exchange,
                    "Authorization header must be provided and start with 'Bearer'");
            if (!words[0].equalsIgnoreCase("Bearer"))
                throw unauthorized(exchange, "Authorization scheme must be 'Bearer'");
            if (!known || access == Access.FORGOTTEN) throw unauthorized(exchange, "Access token is invalid");
            if (access != Access.OPEN) throw new DifyExec.Demo.Refused(403, "forbidden", access == Access.DELETED
                    ? "The app no longer exists." : "The app's API service has been disabled.");
        }

        private static DifyExec.Demo.Refused unauthorized(Exchange exchange, String message) {
            exchange.header("WWW-Authenticate", "Bearer realm=\"api\"");
            return new DifyExec.Demo.Refused(401, "unauthorized", message);
        }

        // What is started

        /// `id` is that of a version, or empty for the one that is published now. The order of the checks is Dify's.
        private void run(Exchange exchange, String id) throws IOException, InterruptedException {
            var body = body(exchange);
            if (setup.kind() == Setup.Kind.CHAT) throw new DifyExec.Demo.Refused(400, "not_workflow_app",
                    "Please check if your app mode matches the right API route.");
            var inputs = inputs(body);
            checkMode(body);
            checkTrace(exchange, body);
            var user = user(body);
            boolean streaming = "streaming".equals(body.get("response_mode")); // all else is blocking
            var row = Objects.toString(inputs.get("id"), "");
            var fate = possible(behaviour.fate(row, ledger.nextStart(row), inputs), streaming);
            ledger.met(fate.fault(), user);
            if (fate.fault() == Fault.THROTTLE) throw tooMany(behaviour.limit() > 0 ? behaviour.limit() : 10);
            if (worker && streaming) {
                if (behaviour.limit() == 1) throw tooMany(1);
                begin(exchange, new Start(row, user, inputs, fate, true, version(id)));
                return;
            }
            if (active.incrementAndGet() > behaviour.limit() && behaviour.limit() > 0) {
                active.decrementAndGet();
                throw tooMany(behaviour.limit());
            }
            try {
                begin(exchange, new Start(row, user, inputs, fate, streaming, version(id)));
            } finally {
                if (fate.fault() != Fault.KILL) active.decrementAndGet(); // a killed process gives nothing back
            }
        }

        /// Only in a worker a run can wait in a queue, and only that of 1.16.0 breaks off what it streams.
        private Fate possible(Fate fate, boolean streaming) {
            boolean newStream = makesUpEnds && streaming;
            return new Fate(newStream || !fate.fault().isOfNewStreams() ? fate.fault() : Fault.NONE,
                    worker && streaming ? fate.queue() : Duration.ZERO, fate.latency(), fate.die());
        }

        private Map<?, ?> inputs(Map<?, ?> body) {
            var given = body.get("inputs");
            if (given instanceof Map<?, ?> inputs) return inputs;
            if (worker && !body.containsKey("inputs"))
                throw mistake("WorkflowRunPayload", "inputs", "Field required", "missing", "dict");
            if (worker) throw mistake("WorkflowRunPayload", "inputs", "Input should be a valid dictionary", "dict_type",
                    pythonType(given));
            if (given instanceof Collection<?> pairs) return paired(pairs);
            throw mismatch("inputs", body.containsKey("inputs") ? "Must not be null!"
                    : "Missing required parameter in the JSON body");
        }

        private static String pythonType(Object value) {
            return switch (value) {
                case null -> "NoneType";
                case String _ -> "str";
                case Boolean _ -> "bool";
                case Collection<?> _ -> "list";
                case Map<?, ?> _ -> "dict";
                case Double _, BigDecimal _ -> "float";
                default -> "int";
            };
        }

        /// 1.9.2 makes an object of a list of pairs: `["ab"]` becomes `{"a": "b"}`.
        private static Map<?, ?> paired(Collection<?> pairs) {
            var inputs = new LinkedHashMap<String, Object>();
            for (var pair : pairs) {
                if (!(pair instanceof String text) || text.length() != 2) throw unknown();
                inputs.put(text.substring(0, 1), text.substring(1));
            }
            return inputs;
        }

        private void checkMode(Map<?, ?> body) {
            var mode = body.get("response_mode");
            if (!body.containsKey("response_mode") || "blocking".equals(mode) || "streaming".equals(mode)) return;
            if (!worker) throw mismatch("response_mode", "The value '" + (mode == null ? "None" : mode)
                    + "' is not a valid choice for 'response_mode'.");
            if (mode != null) throw mistake("WorkflowRunPayload", "response_mode",
                    "Input should be 'blocking' or 'streaming'", "literal_error", pythonType(mode));
        }

        private void checkTrace(Exchange exchange, Map<?, ?> body) {
            var header = exchange.headers().get("x-trace-session-id");
            var session = body.containsKey("trace_session_id") ? body.get("trace_session_id") : header;
            if (worker && session instanceof String text && (text.isBlank() || text.strip().length() > 200))
                throw new DifyExec.Demo.Refused(400, "bad_request",
                        "trace_session_id must be 1 to 200 characters after trimming.");
        }

        /// What is answered from 1.14.2 on to a body or a query that does not fit, as Pydantic reports it.
        private static DifyExec.Demo.Refused mistake(String model, String field, String what, String kind,
                String type) {
            return new DifyExec.Demo.Refused(400, "invalid_param", "1 validation error for " + model + "\n" + field
                    + "\n  " + what + " [type=" + kind + ", input_value=…, input_type=" + type
                    + "]\n    For further information visit https://errors.pydantic.dev/2.12/v/" + kind);
        }

        /// What 1.9.2 answers to them.
        private static DifyExec.Demo.Refused mismatch(String field, String what) {
            return new DifyExec.Demo.Refused(DifyExec.Demo.Reply.of(400, DifyExec.Demo.object(
                    "errors", DifyExec.Demo.object(field, what), "message", "Input payload validation failed")));
        }

        private Published version(String id) {
            if (id.isEmpty() && setup.kind() == Setup.Kind.UNPUBLISHED)
                throw new DifyExec.Demo.Refused(400, "invalid_param", "Workflow not published");
            if (id.isEmpty()) return current;
            if (!SimulatedFiles.isUuid(id)) throw new DifyExec.Demo.Refused(400, "bad_request",
                    "Invalid workflow_id format: '" + id + "'. ");
            if (id.equals(draft)) throw new DifyExec.Demo.Refused(400, "bad_request",
                    "Cannot use draft workflow version. Workflow ID: " + id
                            + ". Please use a published workflow version or leave workflow_id empty.");
            if (!versions.containsKey(id)) throw new DifyExec.Demo.Refused(404, "not_found",
                    "Workflow not found with id: " + id);
            return versions.get(id);
        }

        private DifyExec.Demo.Refused tooMany(int limit) {
            return new DifyExec.Demo.Refused(400, "invalid_param", "Too many requests. Please try again later. The "
                    + "current maximum concurrent requests allowed for " + current.app().id() + " is " + limit + ".");
        }

        private void begin(Exchange exchange, Start start) throws IOException, InterruptedException {
            boolean inStream = worker && start.streaming();
            Map<String, Object> taken;
            try {
                if (start.fate().fault() == Fault.REFUSE)
                    throw SimulatedForm.refusal("text in input form must be less than 48 characters");
                taken = start.version().form().taken(start.inputs(), start.user());
            } catch (SimulatedForm.Refusal refusal) {
                if (!inStream) throw refusal.broken ? broken() : new DifyExec.Demo.Refused(400, "invalid_param",
                        refusal.getMessage());
                error(exchange, start, DifyExec.Demo.object("event", "error", "message", refusal.getMessage(),
                        "status", 500));
                return;
            }
            var kind = start.version().graph().flatMap(SimulatedGraph::unknown);
            if (kind.isPresent()) {
                var message = "No class mapping found for node type: " + kind.get();
                if (!inStream) throw new DifyExec.Demo.Refused(400, "invalid_param", message);
                error(exchange, start, DifyExec.Demo.object("event", "error", "workflow_run_id", null,
                        "code", "invalid_param", "status", 400, "message", message));
                return;
            }
            switch (start.fate().fault()) {
                case LOST -> lose(exchange, start, inStream);
                case BROKEN_ABSENT -> makeUp(exchange, MadeUp.of(start, MadeUp.NO_END));
                default -> take(exchange, start, taken);
            }
        }

        /// The stream of 1.14.2 stays open after it, and holds its connection whether or not its client is there. That
        /// of 1.16.0 has an end made up, in place of an error without a code and after one with.
        private void error(Exchange exchange, Start start, Map<String, Object> event)
                throws IOException, InterruptedException {
            boolean isCoded = event.containsKey("code");
            if (makesUpEnds && !isCoded) {
                makeUp(exchange, MadeUp.of(start, (String) event.get("message")));
            } else if (makesUpEnds) {
                makeUp(exchange, MadeUp.of(start, MadeUp.NO_END), line(event));
            } else {
                var out = exchange.stream();
                out.write(PING);
                out.write(line(event));
                fallSilent(out);
            }
        }

        private void makeUp(Exchange exchange, MadeUp end, String... before) throws IOException, InterruptedException {
            var out = exchange.stream();
            out.write(PING);
            pace.pause(behaviour.version().opening());
            for (var line : before) out.write(line);
            out.write(line(end.started()));
            out.write(line(end.finished()));
            out.end();
        }

        private void lose(Exchange exchange, Start start, boolean inStream) throws IOException, InterruptedException {
            if (!inStream) {
                pace.pause(start.fate().latency().dividedBy(2));
                throw new IOException("the process that had this request is killed");
            }
            var out = exchange.stream();
            out.write(PING);
            fallSilent(out);
        }

        /// Nothing more comes, not even a ping: 1.9.2 ends such a stream at once.
        private void fallSilent(Exchange.Chunks out) throws IOException, InterruptedException {
            pace.pause(worker ? behaviour.silence() : Duration.ZERO);
            out.end();
        }

        private void take(Exchange exchange, Start start, Map<String, Object> taken)
                throws IOException, InterruptedException {
            var job = ledger.take(start.row(), start, pace);
            Thread.startVirtualThread(() -> execute(job, taken));
            switch (start.fate().fault()) {
                case GATEWAY -> gateway(exchange, job);
                case ERROR_500 -> {
                    pace.pause(job.fate.latency().dividedBy(2));
                    exchange.send((DifyExec.Demo.Reply.Whole) broken().reply);
                }
                default -> {
                    if (start.streaming()) stream(exchange, job);
                    else block(exchange, job);
                }
            }
        }

        private static DifyExec.Demo.Refused broken() {
            return new DifyExec.Demo.Refused(500, "internal_server_error", "The server encountered an internal error "
                    + "and was unable to complete your request. Either the server is overloaded or there is an error "
                    + "in the application.");
        }

        private void execute(Job job, Map<String, Object> inputs) {
            try {
                boolean atEnd = !worker && !job.streaming;
                job.run(inputs, () -> {
                    ledger.began(job);
                    if (worker) ledger.list(job);
                }, () -> {
                    if (atEnd) ledger.list(job);
                });
            } catch (InterruptedException _) {
                Thread.currentThread().interrupt();
            }
        }

        /// The proxy answers; Dify does not see that its client has left: the place stays taken to the run's end.
        private void gateway(Exchange exchange, Job job) throws IOException, InterruptedException {
            var status = List.of("502 Bad Gateway", "503 Service Temporarily Unavailable", "504 Gateway Time-out")
                    .get(job.fate.die() % 3);
            if (status.startsWith("504")) pace.pause(job.fate.latency().dividedBy(2));
            exchange.without("X-Version", "X-Env").header("Server", "nginx/1.22.1").header("Connection", "close")
                    .send(Integer.parseInt(status.substring(0, 3)), "text/html", ("<html>\n<head><title>" + status
                            + "</title></head>\n<body>\n<center><h1>" + status + "</h1></center>\n"
                            + "<hr><center>nginx/1.22.1</center>\n</body>\n</html>\n").replace("\n", "\r\n"));
            exchange.done();
            await(CompletableFuture.anyOf(job.told, job.killed));
        }

        private void block(Exchange exchange, Job job) throws IOException, InterruptedException {
            var fault = job.fate.fault();
            if (fault == Fault.DROP_BEFORE) {
                pace.pause(job.fate.latency().multipliedBy(job.fate.die() % 8).dividedBy(8));
                throw new IOException("dropped");
            }
            if (fault == Fault.KILL) kill(job);
            var told = await(job.told);
            if (job.isEndless()) await(job.resumed);
            if (fault == Fault.LOSE_FINISH) throw new IOException("dropped");
            var body = DifyExec.Demo.Encoding.SPACED.json(told.blocking());
            if (fault == Fault.DROP_AFTER) exchange.cut(200, behaviour.version().blockingType(), body);
            else exchange.send(200, behaviour.version().blockingType(), body);
        }

        private void kill(Job job) throws IOException, InterruptedException {
            await(job.began);
            pace.pause(job.takes().dividedBy(3));
            throw new IOException("the process that had this request is killed");
        }

        private void stream(Exchange exchange, Job job) throws IOException, InterruptedException {
            int die = job.fate.die();
            var fault = job.fate.fault();
            if (fault == Fault.DROP_BEFORE && die % 2 == 0) throw new IOException("dropped");
            if (!worker && !fits(await(job.began).inputs())) {
                unencodable(exchange);
                return;
            }
            var out = exchange.stream();
            if (worker) out.write(PING);
            if (fault == Fault.DROP_BEFORE) {
                pace.pause(job.fate.queue().dividedBy(2));
                out.cut(PING);
            }
            var run = awaitBegin(job);
            if (run.isEmpty()) {
                out.end(); // it waited too long in the queue; it starts all the same
                return;
            }
            pace.pause(behaviour.version().opening());
            var opening = job.opening(run.get());
            int last = fault == Fault.DROP_AFTER && die % 3 > 0 ? 1 + die / 3 % opening.size() : opening.size();
            for (var event : opening.subList(0, last)) write(out, event);
            if (fault == Fault.DROP_AFTER && die % 3 > 0) out.cut(line(run.get().textChunk("Answer", "llm", "text")));
            if (fault == Fault.OTHER_END) {
                out.write(line(another(job).closing().getLast()));
                out.end();
                return;
            }
            if (fault == Fault.KILL) kill(job);
            if (fault == Fault.BROKEN_RUNNING) {
                pace.pause(job.takes().dividedBy(3));
                breakOff(out, job);
            } else finish(out, job);
        }

        /// What was not told by now is not told at all.
        private static void breakOff(Exchange.Chunks out, Job job) throws IOException {
            var end = MadeUp.of(job);
            if (!fits(job.opening(job.began.join()).getFirst())) out.write(line(end.started()));
            out.write(line(end.finished()));
            out.end();
        }

        /// A run that nobody asked for, and that succeeded.
        private static DifyExec.Demo.Run another(Job job) {
            return DifyExec.Demo.Run.begin(job.version.app(), "", Map.of(), Instant.now()).end(
                    new DifyExec.Demo.State.Succeeded(Map.of("answer", "of another run")), 1, Instant.now());
        }

        private void finish(Exchange.Chunks out, Job job) throws IOException, InterruptedException {
            var fault = job.fate.fault();
            var told = awaitEnd(out, job, job.told);
            if (told.isEmpty()) {
                fallSilent(out);
                return;
            }
            var events = told.get().closing();
            for (var event : events.subList(0, events.size() - 1)) write(out, event);
            if (job.isEndless()) awaitEnd(out, job, job.resumed);
            if (!worker) ledger.list(job); // reached only while the client is there
            if (fault == Fault.DROP_AFTER) out.cut(line(events.getLast()));
            if (fault == Fault.ERROR_FIRST) out.write(line(DifyExec.Demo.object("event", "error",
                    "workflow_run_id", job.began.join().id(), "code", "completion_request_error", "status", 400,
                    "message", "Completion request failed.")));
            if (fault == Fault.BROKEN || makesUpEnds && !fits(events.getLast())) breakOff(out, job);
            else if (fault == Fault.LOSE_FINISH || !fits(events.getLast())) fallSilent(out);
            else {
                out.write(line(events.getLast()));
                pace.pause(behaviour.version().linger());
                out.end();
            }
        }

        /// An event with an integer beyond 64 bits cannot be encoded: it is left out.
        private static void write(Exchange.Chunks out, Map<String, Object> event) throws IOException {
            if (fits(event)) out.write(line(event));
        }

        private static boolean fits(Object value) {
            return switch (value) {
                case BigInteger number -> number.bitLength() < 64;
                case Map<?, ?> map -> map.values().stream().allMatch(Dify::fits);
                case Collection<?> list -> list.stream().allMatch(Dify::fits);
                case null, default -> true;
            };
        }

        /// 1.9.2 gives up the whole stream then, and leaves it to gunicorn to say so; the run goes on.
        private static void unencodable(Exchange exchange) throws IOException {
            exchange.without("X-Version", "X-Env").header("Connection", "close").send(500, "text/html",
                    "<html>\n  <head>\n    <title>Internal Server Error</title>\n  </head>\n  <body>\n"
                            + "    <h1><p>Internal Server Error</p></h1>\n    \n  </body>\n</html>\n");
        }

        private Optional<DifyExec.Demo.Run> awaitBegin(Job job) throws InterruptedException {
            try {
                return Optional.of(job.began.get(pace.millis(behaviour.silence()), MILLISECONDS));
            } catch (TimeoutException _) {
                return Optional.empty();
            } catch (ExecutionException problem) {
                throw new IllegalStateException(problem);
            }
        }

        /// Nothing where the run's worker is killed before.
        private Optional<Job.Told> awaitEnd(Exchange.Chunks out, Job job, CompletableFuture<Job.Told> told)
                throws IOException, InterruptedException {
            while (true) {
                try {
                    CompletableFuture.anyOf(told, job.killed).get(pace.millis(PING_PERIOD), MILLISECONDS);
                    return Optional.ofNullable(told.getNow(null));
                } catch (TimeoutException _) {
                    out.write(PING);
                } catch (ExecutionException problem) {
                    throw new IllegalStateException(problem);
                }
            }
        }

        private static <T> T await(CompletableFuture<T> what) throws InterruptedException {
            try {
                return what.get();
            } catch (ExecutionException problem) {
                throw new IllegalStateException(problem);
            }
        }

        private static String line(Map<String, Object> event) {
            return "data: " + DifyExec.Demo.Encoding.COMPACT.json(event) + "\n\n";
        }

        // A run that goes on without its first stream

        /// The reconnect route from 1.14.2 on, with what it gets wrong.
        private void events(Exchange exchange, String id) throws IOException, InterruptedException {
            var user = exchange.query("user");
            if (user.isEmpty()) throw new DifyExec.Demo.Refused(400, "invalid_param", "Arg user must be provided.");
            if (!SimulatedFiles.isUuid(id)) throw unknown();
            var job = ledger.withRun(id).filter(each -> each.user.equals(user)).orElseThrow(() ->
                    new DifyExec.Demo.Refused(404, "not_found", "Workflow run not found"));
            var out = exchange.stream();
            if (job.told.isDone() && !job.standing().equals("paused")) {
                var told = job.resumed.getNow(job.told.join());
                out.write("data: " + DifyExec.Demo.Encoding.SPACED.json(told.afterwards()) + "\n\n");
                out.end();
                return;
            }
            out.write(PING);
            boolean snapshot = exchange.query("include_state_snapshot").equals("true");
            if (snapshot) for (var event : snapshot(job)) out.write(line(event));
            boolean paused = job.told.isDone();
            if (paused) job.followed = true;
            if (!paused && !job.streaming) pace.pause(behaviour.silence()); // a blocking run publishes nothing
            else follow(out, awaitEnd(out, job, paused ? job.resumed : job.told));
            boolean goesOn = exchange.query("continue_on_pause").equals("true") && !snapshot;
            if (goesOn && makesUpEnds && !paused) throw new IOException("1.16.0 breaks it off within a chunk");
            if (goesOn) pace.pause(behaviour.silence());
            out.end();
        }

        private void follow(Exchange.Chunks out, Optional<Job.Told> told) throws IOException, InterruptedException {
            if (told.flatMap(Job.Told::course).isPresent())
                for (var event : told.get().closing()) write(out, event);
            else if (told.isPresent()) out.write(line(told.get().last()));
            pace.pause(told.isPresent() ? behaviour.version().linger() : behaviour.silence());
        }

        /// What has happened so far, without the details of the nodes.
        private static List<Map<String, Object>> snapshot(Job job) {
            var run = job.began.join();
            int index = 0;
            var events = new ArrayList<Map<String, Object>>();
            for (var event : job.opening(run)) {
                var data = new LinkedHashMap<String, Object>();
                ((Map<?, ?>) event.get("data")).forEach((key, value) -> data.put((String) key, value));
                if (event.get("event").equals("workflow_started")) data.put("inputs", storedInputs(run));
                else {
                    if (event.get("event").equals("node_started")) index++;
                    data.put("index", index);
                    List.of("inputs_truncated", "process_data_truncated", "outputs_truncated", "agent_strategy")
                            .forEach(data::remove);
                    for (var name : List.of("inputs", "process_data", "outputs"))
                        if (data.containsKey(name)) data.put(name, null);
                }
                events.add(DifyExec.Demo.object("event", event.get("event"), "task_id", run.id(),
                        "workflow_run_id", run.id(), "data", data));
            }
            return events;
        }

        private static Map<String, Object> storedInputs(DifyExec.Demo.Run run) {
            try {
                var inputs = new LinkedHashMap<String, Object>();
                ((Map<?, ?>) JSON.readValue((String) run.detail().get("inputs"), Object.class))
                        .forEach((key, value) -> inputs.put((String) key, value));
                return inputs;
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        // A run that waits for a person

        private Job asking(String token) {
            return ledger.listed("").filter(job -> job.now().map(run -> run.state()
                            instanceof DifyExec.Demo.State.Paused || job.resumed.isDone()).orElse(false))
                    .filter(job -> Job.reason(job.stored.join()).get("form_token").equals(token))
                    .findFirst().orElseThrow(() -> new DifyExec.Demo.Refused(404, "not_found", "Form not found"));
        }

        private void question(Exchange exchange, String token) throws IOException {
            var run = asking(token).stored.join();
            var question = SimulatedGraph.question(run);
            exchange.send(200, "application/json", DifyExec.Demo.Encoding.SPACED.json(DifyExec.Demo.object(
                    "form_content", question.get("form_content"), "inputs", question.get("inputs"),
                    "resolved_default_values", Map.of(), "user_actions", question.get("actions"),
                    "expiration_time", Job.reason(run).get("expiration_time"))));
        }

        private void answered(Exchange exchange, String token) throws IOException {
            var body = body(exchange);
            var job = asking(token);
            var reason = Job.reason(job.stored.join());
            if (job.resumed.isDone()) throw new DifyExec.Demo.Refused(412, "human_input_form_submitted",
                    "This form has already been submitted by another user, form_id=" + reason.get("form_id"));
            var action = Objects.toString(body.get("action"), "");
            var actions = ((List<?>) reason.get("actions")).stream().map(each -> ((Map<?, ?>) each).get("id")).toList();
            if (!actions.contains(action))
                throw new DifyExec.Demo.Refused(400, "invalid_form_data", "Invalid action: " + action);
            if (!(body.get("inputs") instanceof Map<?, ?> inputs) || !(inputs.get("note") instanceof String note))
                throw new DifyExec.Demo.Refused(400, "invalid_form_data", "Missing required inputs: note");
            job.resume(note);
            exchange.send(DifyExec.Demo.Reply.of(200, Map.of()));
        }

        // What is asked

        private void info(Exchange exchange, String id) throws IOException {
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("name", setup.name(), "description", "",
                    "tags", List.of(), "mode", setup.kind() == Setup.Kind.CHAT ? "advanced-chat" : "workflow",
                    "author_name", "simulator")));
        }

        private void meta(Exchange exchange, String id) throws IOException {
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("tool_icons", Map.of())));
        }

        private void site(Exchange exchange, String id) throws IOException {
            var site = DifyExec.Demo.object("title", setup.name(),
                    "chat_color_theme", null, "chat_color_theme_inverted", false, "icon_type", "emoji",
                    "icon", "x", "icon_background", "#FFEAD5",
                    "icon_url", null, "description", null, "copyright", null, "privacy_policy", null,
                    "custom_disclaimer", "", "default_language", "en-US", "show_workflow_steps", true,
                    "use_icon_as_answer_icon", false);
            if (makesUpEnds) site.put("input_placeholder", null);
            exchange.send(DifyExec.Demo.Reply.of(200, site));
        }

        private void parameters(Exchange exchange, String id) throws IOException {
            if (setup.kind() == Setup.Kind.UNPUBLISHED) throw new DifyExec.Demo.Refused(400, "app_unavailable",
                    "App unavailable, please check your app configurations.");
            boolean chat = setup.kind() == Setup.Kind.CHAT;
            var off = DifyExec.Demo.object("enabled", false);
            var speech = DifyExec.Demo.object("enabled", false);
            if (!chat) speech.putAll(DifyExec.Demo.object("voice", "", "language", ""));
            var words = DifyExec.Demo.object("enabled", false);
            if (chat) words.putAll(worker ? DifyExec.Demo.object("type", "", "config", Map.of())
                    : DifyExec.Demo.object("type", "", "configs", List.of()));
            var fields = chat ? List.of() : JSON.convertValue(current.fields(), Object.class);
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("opening_statement", null,
                    "suggested_questions", List.of(), "suggested_questions_after_answer", off, "speech_to_text", off,
                    "text_to_speech", speech, "retriever_resource", DifyExec.Demo.object("enabled", chat),
                    "annotation_reply", off, "more_like_this", off, "user_input_form", fields,
                    "sensitive_word_avoidance", words, "file_upload", chat ? pictures() : off,
                    "system_parameters", DifyExec.Demo.object("image_file_size_limit", 10,
                            "video_file_size_limit", 100, "audio_file_size_limit", 50,
                            "file_size_limit", 15, "workflow_file_upload_limit", 10))));
        }

        private static Map<String, Object> pictures() {
            return DifyExec.Demo.object("image", DifyExec.Demo.object("detail", "high", "enabled", false,
                    "number_limits", 3, "transfer_methods", List.of("remote_url", "local_file")));
        }

        private void upload(Exchange exchange, String id) throws IOException {
            exchange.send(files.upload(exchange.headers().getOrDefault("content-type", ""), exchange.body(), worker));
        }

        private void detail(Exchange exchange, String id) throws IOException {
            if (!SimulatedFiles.isUuid(id)) throw unknown();
            ledger.looks.incrementAndGet();
            var found = ledger.withRun(id).filter(job -> job.now().isPresent());
            if (found.isPresent()) exchange.send(DifyExec.Demo.Reply.of(200, found.get().detail()));
            else if (worker) throw new DifyExec.Demo.Refused(404, "not_found", "Workflow run not found.");
            else {
                var detail = DifyExec.Demo.Run.begin(current.app(), "", Map.of(), Instant.EPOCH).detail();
                detail.replaceAll((_, _) -> null);
                exchange.send(DifyExec.Demo.Reply.of(200, detail));
            }
        }

        private void logs(Exchange exchange, String id) throws IOException {
            ledger.looks.incrementAndGet();
            var status = exchange.query("status");
            if (!List.of("", "succeeded", "failed", "stopped").contains(status)) throw worker
                    ? mistake("WorkflowLogQuery", "status", "Input should be 'succeeded', 'failed' or 'stopped'",
                            "literal_error", "str")
                    : mismatch("status", "The value '" + status + "' is not a valid choice for 'status'.");
            int page = within(exchange, "page", 1, 99_999), limit = within(exchange, "limit", 20, 100);
            var after = time(exchange, "created_at__after", Instant.MIN);
            var before = time(exchange, "created_at__before", Instant.MAX);
            var account = exchange.query("created_by_account");
            if (!account.isEmpty())
                throw new DifyExec.Demo.Refused(400, "invalid_param", "Account not found: " + account);
            var all = ledger.listed(exchange.query("created_by_end_user_session_id"))
                    .filter(job -> status.isEmpty() || job.standing().equals(status))
                    .filter(job -> !created(job).isBefore(after) && !created(job).isAfter(before))
                    .filter(job -> matches(job, exchange.query("keyword"))).toList();
            var rows = all.stream().skip((page - 1L) * limit).limit(limit).map(Job::logRow).toList();
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("page", page, "limit", limit,
                    "total", all.size(), "has_more", all.size() > (long) page * limit, "data", rows)));
        }

        private static Instant created(Job job) {
            return job.began.join().created();
        }

        /// The first 30 characters count. What is not ASCII is stored as `\\uXXXX`: only 1.9.2 asks for it so.
        private boolean matches(Job job, String keyword) {
            var run = job.now().orElseThrow();
            var word = keyword.substring(0, Math.min(30, keyword.length())).toLowerCase(Locale.ROOT);
            if (word.chars().anyMatch(c -> c > '~')) {
                if (worker) return run.user().toLowerCase(Locale.ROOT).contains(word);
                var escaped = DifyExec.Demo.Encoding.SPACED.json(word);
                word = escaped.substring(1, escaped.length() - 1);
            }
            return (run.id() + " " + run.user() + " " + DifyExec.Demo.Encoding.SPACED.json(run.inputs()) + " "
                    + DifyExec.Demo.Encoding.SPACED.json(run.state().outputs())).toLowerCase(Locale.ROOT)
                    .contains(word);
        }

        private int within(Exchange exchange, String name, int otherwise, int most) {
            var text = exchange.query(name);
            if (text.isEmpty()) return otherwise;
            int number = text.matches("\\d{1,6}") ? Integer.parseInt(text) : 0;
            if (number >= 1 && number <= most) return number;
            if (!worker) throw mismatch(name, "Invalid argument: " + number + ". argument must be within the range 1 - "
                    + most);
            throw number < 1 ? mistake("WorkflowLogQuery", name, "Input should be greater than or equal to 1",
                    "greater_than_equal", "str") : mistake("WorkflowLogQuery", name,
                    "Input should be less than or equal to " + most, "less_than_equal", "str");
        }

        private static Instant time(Exchange exchange, String name, Instant otherwise) {
            var text = exchange.query(name);
            try {
                return text.isEmpty() ? otherwise : Instant.parse(text);
            } catch (DateTimeException _) {
                throw new DifyExec.Demo.Refused(400, "invalid_param", "invalid literal for int() with base 10: b'"
                        + text.substring(0, Math.min(4, text.length())) + "'");
            }
        }

        private void stop(Exchange exchange, String task) throws IOException {
            body(exchange);
            ledger.stops.incrementAndGet();
            ledger.withTask(task).ifPresent(Job::stop);
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("result", "success")));
        }

        /// The request's JSON, checked as far as Dify does on every POST: an object with a user.
        private static Map<?, ?> body(Exchange exchange) {
            if (!exchange.headers().getOrDefault("content-type", "").startsWith("application/json"))
                throw new DifyExec.Demo.Refused(415, "unsupported_media_type",
                        "Did not attempt to load JSON data because the request Content-Type was not "
                                + "'application/json'.");
            try {
                var value = JSON.readValue(exchange.body(), Object.class);
                if (!(value instanceof Map<?, ?> body)) throw unknown();
                if (user(body).codePointCount(0, user(body).length()) > 255) throw unknown();
                return body;
            } catch (IOException _) { // no JSON
                throw new DifyExec.Demo.Refused(400, "bad_request",
                        "The browser (or proxy) sent a request that this server could not understand.");
            }
        }

        /// Any value that Python takes for true, as Python prints it.
        private static String user(Map<?, ?> body) {
            var given = body.get("user");
            boolean empty = given == null || given.equals(false) || given.equals(0) || given.equals("")
                    || given instanceof Collection<?> list && list.isEmpty();
            if (empty) throw new DifyExec.Demo.Refused(400, "invalid_param", "Arg user must be provided.");
            var user = given instanceof String text ? text : SimulatedForm.python(given);
            if (user.indexOf('\0') >= 0) throw new DifyExec.Demo.Refused(400, "invalid_param",
                    "A string literal cannot contain NUL (0x00) characters.");
            return user;
        }

        private static DifyExec.Demo.Refused unknown() {
            return new DifyExec.Demo.Refused(500, "unknown", "Internal Server Error");
        }
    }

    /// A request that is about to start a run.
    record Start(String row, String user, Map<?, ?> inputs, Fate fate, boolean streaming, Published version) {}

    // ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// HTTP/1.1 on loopback, a virtual thread a connection. With `places`, a connection that finds none free waits in
    /// the accept queue, as gunicorn's do.
    static final class Server implements AutoCloseable {
        private final ServerSocket socket;
        private final Dify dify;
        private final Semaphore places;
        private final Set<Socket> open = ConcurrentHashMap.newKeySet();

        private Server(ServerSocket socket, int places, Dify dify) {
            this.socket = socket;
            this.dify = dify;
            this.places = new Semaphore(places > 0 ? places : Integer.MAX_VALUE);
        }

        /// @param places 0: no limit
        static Server start(int port, int places, Dify dify) throws IOException {
            var socket = new ServerSocket(port, 2048, InetAddress.getLoopbackAddress());
            var server = new Server(socket, places, dify);
            Thread.ofPlatform().daemon().name("accept").start(server::accept);
            return server;
        }

        /// The address that a client is given: `http://127.0.0.1:40123/v1`.
        URI baseUrl() {
            return URI.create("http://127.0.0.1:" + socket.getLocalPort() + "/v1");
        }

        private void accept() {
            try {
                while (true) {
                    places.acquire();
                    var connection = socket.accept();
                    open.add(connection);
                    Thread.startVirtualThread(() -> serve(connection));
                }
            } catch (IOException | InterruptedException _) {
                // the server is closed
            }
        }

        private void serve(Socket connection) {
            try (connection) {
                connection.setTcpNoDelay(true);
                connection.setSoTimeout((int) dify.idle().toMillis());
                var in = new BufferedInputStream(connection.getInputStream(), 1 << 13);
                var out = new BufferedOutputStream(connection.getOutputStream(), 1 << 13);
                for (var next = Exchange.read(in, out); next.isPresent(); next = Exchange.read(in, out)) {
                    dify.answer(next.get());
                    if (next.get().isLast()) break;
                }
            } catch (IOException | InterruptedException _) {
                // the client has left, was idle too long, or it is the plan to drop it
            } finally {
                open.remove(connection);
                places.release();
            }
        }

        @Override
        public void close() throws IOException {
            socket.close();
            for (var connection : open) connection.close();
        }
    }

    /// One request, and the way back.
    static final class Exchange {
        private static final Map<Integer, String> REASONS = Map.of(200, "OK", 201, "CREATED", 308,
                "PERMANENT REDIRECT", 400, "BAD REQUEST", 401, "UNAUTHORIZED", 403, "FORBIDDEN", 404, "NOT FOUND", 405,
                "METHOD NOT ALLOWED", 500, "INTERNAL SERVER ERROR");

        private final String method, target;
        private final Map<String, String> headers;
        private final byte[] body;
        private final OutputStream out;
        private final Map<String, String> answer = new LinkedHashMap<>();
        private boolean last;

        private Exchange(String method, String target, String version, Map<String, String> headers, byte[] body,
                OutputStream out) {
            this.method = method;
            this.target = target;
            this.headers = headers;
            this.body = body;
            this.out = out;
            this.last = headers.getOrDefault("connection", "").equalsIgnoreCase("close") || version.equals("HTTP/1.0");
        }

        /// The next request of a connection; nothing when the client has left, or was idle too long.
        static Optional<Exchange> read(InputStream in, OutputStream out) throws IOException {
            var first = line(in);
            var words = first.split(" ", 3);
            if (words.length < 3) return Optional.empty();
            var headers = new HashMap<String, String>();
            for (var line = line(in); !line.isEmpty(); line = line(in)) {
                int colon = line.indexOf(':');
                if (colon > 0) headers.put(line.substring(0, colon).toLowerCase(Locale.ROOT),
                        line.substring(colon + 1).strip());
            }
            if (headers.containsKey("expect")) {
                out.write("HTTP/1.1 100 Continue\r\n\r\n".getBytes(ISO_8859_1));
                out.flush();
            }
            return Optional.of(new Exchange(words[0], words[1], words[2], headers, body(in, headers), out));
        }

        private static byte[] body(InputStream in, Map<String, String> headers) throws IOException {
            if (!headers.getOrDefault("transfer-encoding", "").equalsIgnoreCase("chunked"))
                return in.readNBytes(Integer.parseInt(headers.getOrDefault("content-length", "0")));
            var all = new ByteArrayOutputStream();
            for (int size = Integer.parseInt(line(in), 16); size > 0; size = Integer.parseInt(line(in), 16)) {
                all.write(in.readNBytes(size));
                line(in);
            }
            line(in);
            return all.toByteArray();
        }

        private static String line(InputStream in) throws IOException {
            var line = new StringBuilder();
            for (int next = in.read(); next >= 0 && next != '\n'; next = in.read())
                if (next != '\r') line.append((char) next);
            return line.toString();
        }

        String method() {
            return method;
        }

        String path() {
            int query = target.indexOf('?');
            return query < 0 ? target : target.substring(0, query);
        }

        /// Empty where it is missing.
        String query(String name) {
            return Pattern.compile("[?&]" + Pattern.quote(name) + "=([^&]*)").matcher(target).results().findFirst()
                    .map(match -> URLDecoder.decode(match.group(1), UTF_8)).orElse("");
        }

        Map<String, String> headers() {
            return headers;
        }

        byte[] body() {
            return body;
        }

        boolean isLast() {
            return last;
        }

        Exchange header(String name, String value) {
            answer.put(name, value);
            if (name.equals("Connection") && value.equals("close")) last = true;
            return this;
        }

        Exchange without(String... names) {
            List.of(names).forEach(answer::remove);
            return this;
        }

        void send(DifyExec.Demo.Reply.Whole whole) throws IOException {
            send(whole.status(), whole.type(), whole.body());
        }

        void send(DifyExec.Demo.Reply reply) throws IOException {
            send((DifyExec.Demo.Reply.Whole) reply);
        }

        void send(int status, String type, String text) throws IOException {
            var bytes = text.getBytes(UTF_8);
            head(status, "Content-Type", type, "Content-Length", String.valueOf(bytes.length));
            if (!method.equals("HEAD")) out.write(bytes);
            out.flush();
        }

        /// Half of the body; the connection is closed by the exception.
        void cut(int status, String type, String text) throws IOException {
            var bytes = text.getBytes(UTF_8);
            head(status, "Content-Type", type, "Content-Length", String.valueOf(bytes.length));
            out.write(bytes, 0, bytes.length / 2);
            out.flush();
            throw new IOException("dropped");
        }

        /// Nothing more is sent, though the connection stays taken.
        void done() throws IOException {
            out.flush();
        }

        private void head(int status, String... more) throws IOException {
            var head = new StringBuilder("HTTP/1.1 ").append(status).append(' ')
                    .append(REASONS.getOrDefault(status, "Status")).append("\r\n");
            for (int i = 0; i < more.length; i += 2)
                head.append(more[i]).append(": ").append(more[i + 1]).append("\r\n");
            answer.forEach((name, value) -> head.append(name).append(": ").append(value).append("\r\n"));
            out.write(head.append("\r\n").toString().getBytes(ISO_8859_1));
        }

        /// Begins an event stream.
        Chunks stream() throws IOException {
            head(200, "Content-Type", "text/event-stream; charset=utf-8", "Transfer-Encoding", "chunked");
            out.flush();
            return new Chunks(out);
        }

        /// The body of a stream, a chunk an event.
        record Chunks(OutputStream out) {
            void write(String event) throws IOException {
                var bytes = event.getBytes(UTF_8);
                out.write((Integer.toHexString(bytes.length) + "\r\n").getBytes(ISO_8859_1));
                out.write(bytes);
                out.write("\r\n".getBytes(ISO_8859_1));
                out.flush();
            }

            /// Half of a chunk; the connection is closed by the exception.
            void cut(String event) throws IOException {
                var bytes = event.getBytes(UTF_8);
                out.write((Integer.toHexString(bytes.length) + "\r\n").getBytes(ISO_8859_1));
                out.write(bytes, 0, bytes.length / 2);
                out.flush();
                throw new IOException("dropped");
            }

            void end() throws IOException {
                out.write("0\r\n\r\n".getBytes(ISO_8859_1));
                out.flush();
            }
        }
    }
}
