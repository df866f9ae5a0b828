///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Plays a Dify server of version 1.9.2 or 1.14.2 over real HTTP, with the misbehaviour that is asked for.
//SOURCES ../DifyExec.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

import com.fasterxml.jackson.databind.ObjectMapper;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
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
@Command(name = "simulator", mixinStandardHelpOptions = true, version = "simulator of Dify 1.9.2 and 1.14.2",
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
            description = "1.14.2 or 1.9.2 (default: ${DEFAULT-VALUE}).")
    DifyExec.Demo.Version version;

    @Option(names = "--columns", paramLabel = "A,B", split = ",", defaultValue = "id,text",
            description = "The workflow's variables, all of them text; others are dropped (default: ${DEFAULT-VALUE}).")
    List<String> columns;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1", description = "Of latencies and trouble.")
    long seed;

    @Option(names = "--latency", paramLabel = "S", defaultValue = "100ms",
            description = "How long a run takes (default: ${DEFAULT-VALUE}).")
    Duration latency;

    @Option(names = "--jitter", paramLabel = "S", defaultValue = "0", description = "Up to so much longer.")
    Duration jitter;

    @Option(names = "--queue", paramLabel = "S|S..S", defaultValue = "0",
            description = "Streams of 1.14.2: a run starts so much later, its client there or not; silence until then.")
    Span queue;

    @Option(names = "--silence", paramLabel = "S", defaultValue = "300s",
            description = "Streams of 1.14.2 end so long after their last event (default: ${DEFAULT-VALUE}).")
    Duration silence;

    @Option(names = "--places", paramLabel = "N", defaultValue = "0",
            description = "Connections served at a time: idle, abandoned and lingering ones count. A default Dify has "
                    + "10 (default: no limit).")
    int places;

    @Option(names = "--limit", paramLabel = "N", defaultValue = "0",
            description = "The app's limit of active requests: 400 'Too many requests.' above it; as in 1.14.2, its "
                    + "streams are not limited, but by 1 all refused (default: no limit).")
    int limit;

    @Option(names = "--drop-before", paramLabel = "P", description = "Cut before the first event; the run goes on.")
    Share dropBefore = Share.NONE;

    @Option(names = "--drop-after", paramLabel = "P", description = "Cut after the first event, or within the answer.")
    Share dropAfter = Share.NONE;

    @Option(names = "--lose-finish", paramLabel = "P",
            description = "No workflow_finished: the stream ends without (1.14.2: after --silence); no blocking "
                    + "answer.")
    Share loseFinish = Share.NONE;

    @Option(names = "--gateway", paramLabel = "P",
            description = "502, 503 or 504 of a proxy (HTML, no X-Version); the run goes on.")
    Share gateway = Share.NONE;

    @Option(names = "--error-500", paramLabel = "P", description = "JSON 500 of Dify after the run began; it goes on.")
    Share error500 = Share.NONE;

    @Option(names = "--never", paramLabel = "P", description = "The run says running for ever, and is never answered.")
    Share never = Share.NONE;

    @Option(names = "--lost", paramLabel = "P",
            description = "Taken and lost in a crash: no run, no trace, no answer (1.14.2 streams: a ping, then "
                    + "silence).")
    Share lost = Share.NONE;

    @Option(names = "--throttle", paramLabel = "P", description = "400 'Too many requests.', nothing is started.")
    Share throttle = Share.NONE;

    @Option(names = "--refuse", paramLabel = "P",
            description = "The inputs are refused; streams of 1.14.2 say so inside, and stay open for --silence.")
    Share refuse = Share.NONE;

    @Option(names = "--fail", paramLabel = "P", description = "The run fails for good.")
    Share fail = Share.NONE;

    @Option(names = "--flaky", paramLabel = "P", description = "The run fails by a model's rate limit.")
    Share flaky = Share.NONE;

    @Option(names = "--partial", paramLabel = "P", description = "The run ends partial-succeeded.")
    Share partial = Share.NONE;

    @Option(names = "--stopped", paramLabel = "P",
            description = "Answered as stopped by the time limit; the run goes on and succeeds later.")
    Share stopped = Share.NONE;

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
        try (var server = Server.start(port, places, new Dify(behaviour()))) {
            spec.commandLine().getOut().println(server.baseUrl());
            spec.commandLine().getOut().flush();
            Thread.currentThread().join(); // until it is ended from outside
        }
        return 0;
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
        return new Behaviour(version, List.copyOf(columns), seed, latency, jitter, queue, silence, limit, shares);
    }

    private static DifyExec.Demo.Version version(String number) {
        return Stream.of(DifyExec.Demo.Version.values()).filter(version -> version.number.equals(number)).findFirst()
                .orElseThrow(() -> new TypeConversionException("'" + number + "' is neither 1.14.2 nor 1.9.2"));
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
        PARTIAL, STOPPED;

        String word() {
            return name().toLowerCase(Locale.ROOT).replace('_', '-');
        }

        /// Nothing is started.
        boolean isRefusal() {
            return this == THROTTLE || this == REFUSE || this == LOST;
        }
    }

    /// How one start goes. `die` chooses among the ways in which a fault shows.
    record Fate(Fault fault, Duration queue, Duration latency, int die) {}

    record Behaviour(DifyExec.Demo.Version version, List<String> columns, long seed, Duration latency, Duration jitter,
                     Span queue, Duration silence, int limit, Map<Fault, Share> shares) {
        private static final Pattern TIMES = Pattern.compile("\\[(latency|queue) (\\d+(?:\\.\\d+)?(?:ms|s|m)?)]");

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

    /// One run, from when it was taken. What its own answer tells and what is stored can differ, also in time.
    static final class Job {
        final String row, user;
        final Fate fate;
        final Instant taken = Instant.now();
        final boolean twice;
        /// The run as it began, and as it is stored and told at its end.
        final CompletableFuture<DifyExec.Demo.Run> began = new CompletableFuture<>();
        final CompletableFuture<DifyExec.Demo.Run> stored = new CompletableFuture<>();
        final CompletableFuture<Told> told = new CompletableFuture<>();
        private final CountDownLatch stopped = new CountDownLatch(1);

        /// `byListener`: it gave up, so the run is told as stopped whatever becomes of it.
        record Told(DifyExec.Demo.Run run, boolean byListener) {
            private Map<String, Object> corrected(Map<String, Object> whole) {
                if (!byListener || !(whole.get("data") instanceof Map<?, ?> data)) return whole;
                var changed = new LinkedHashMap<String, Object>();
                data.forEach((key, value) -> changed.put((String) key, value));
                changed.putAll(DifyExec.Demo.object("status", "stopped", "error", "Stopped by user."));
                whole.put("data", changed);
                return whole;
            }

            Map<String, Object> blocking() {
                return corrected(run.blocking());
            }

            /// The events at the end; the last one ends the stream.
            List<Map<String, Object>> closing() {
                var events = new ArrayList<>(run.closing());
                events.add(corrected(events.removeLast()));
                return events;
            }
        }

        Job(String row, String user, Fate fate, boolean twice) {
            this.row = row;
            this.user = user;
            this.fate = fate;
            this.twice = twice;
        }

        /// Waits as long as its fate says, unless it is stopped before; runs on a thread of its own.
        void run(DifyExec.Demo.App app, Map<String, Object> inputs, Runnable onBegin, Runnable onEnd)
                throws InterruptedException {
            Thread.sleep(fate.queue());
            var run = DifyExec.Demo.Run.begin(app, user, inputs, Instant.now());
            began.complete(run);
            onBegin.run();
            if (fate.fault() == Fault.NEVER) return;
            if (stopped.await(fate.latency().toMillis(), MILLISECONDS)) stop(app, run, onEnd);
            else end(run, inputs, onEnd);
        }

        private void end(DifyExec.Demo.Run run, Map<String, Object> inputs, Runnable onEnd)
                throws InterruptedException {
            var text = inputs.values().stream().skip(1).map(String::valueOf).collect(joining(" "));
            var outputs = DifyExec.Demo.object("answer", "Answer to: " + text, "row_id", inputs.get("id"),
                    "text", text);
            int tokens = 16 + text.length() / 3;
            if (fate.fault() == Fault.STOPPED) {
                told.complete(new Told(run.end(new DifyExec.Demo.State.Stopped(), 0, Instant.now()), true));
                Thread.sleep(fate.latency());
            }
            var state = switch (fate.fault()) {
                case FAIL -> new DifyExec.Demo.State.Failed("Run failed: the model refused this input");
                case FLAKY -> new DifyExec.Demo.State.Failed("[openai] Rate Limit Error, 429 Too Many Requests");
                case PARTIAL -> new DifyExec.Demo.State.Partial(outputs, "Reached maximum retries for URL http://x/");
                default -> new DifyExec.Demo.State.Succeeded(outputs);
            };
            var ended = run.end(state, state instanceof DifyExec.Demo.State.Failed ? 0 : tokens, Instant.now());
            stored.complete(ended);
            onEnd.run(); // before anyone can learn that the run is over
            told.complete(new Told(ended, false));
        }

        /// Engine and listener race for it (20 stops on each server): the engine wins four of five. 1.9.2 is at times
        /// told before it is stored.
        private void stop(DifyExec.Demo.App app, DifyExec.Demo.Run run, Runnable onEnd) throws InterruptedException {
            Thread.sleep(25 + fate.die() % 200);
            var ended = run.end(new DifyExec.Demo.State.Stopped(), 0, Instant.now());
            boolean early = !app.version().hasWorker() && fate.die() % 7 == 0;
            if (early) {
                told.complete(new Told(ended, fate.die() % 5 == 0));
                Thread.sleep(300);
            }
            stored.complete(ended);
            onEnd.run();
            told.complete(new Told(ended, fate.die() % 5 == 0));
        }

        void stop() {
            stopped.countDown();
        }

        /// As detail and log have it; nothing while it waits in the queue.
        Optional<DifyExec.Demo.Run> now() {
            return Optional.ofNullable(stored.getNow(began.getNow(null)));
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
        Job take(String row, String user, Fate fate) {
            var taken = new AtomicReference<Job>();
            rows.compute(row, (_, before) -> {
                var jobs = before == null ? new ArrayList<Job>(2) : new ArrayList<>(before);
                taken.set(new Job(row, user, fate, jobs.stream().anyMatch(Job::isPaid)));
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

        Optional<Job> withRun(String id) {
            return Optional.ofNullable(byRun.get(id));
        }

        Optional<Job> withTask(String id) {
            return Optional.ofNullable(byTask.get(id));
        }

        /// The log, newest first, of one user or, for an empty name, of all.
        Stream<DifyExec.Demo.Run> listed(String user) {
            return (user.isEmpty() ? log : listed.getOrDefault(user, new ConcurrentLinkedDeque<>())).stream()
                    .map(Job::now).flatMap(Optional::stream);
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

    /// The app's API: answers one exchange after another, by any thread.
    static final class Dify {
        private static final Duration PING_PERIOD = Duration.ofSeconds(10);
        private static final String PING = "event: ping\n\n";
        private static final ObjectMapper JSON = new ObjectMapper();

        private final Behaviour behaviour;
        private final DifyExec.Demo.App app;
        private final boolean worker;
        private final Ledger ledger = new Ledger();
        private final AtomicInteger active = new AtomicInteger();
        private final List<Route> routes = List.of(
                new Route("GET", "/v1/info", this::info),
                new Route("GET", "/v1/parameters", this::parameters),
                new Route("POST", "/v1/workflows/run", this::run),
                new Route("GET", "/v1/workflows/run/([^/]+)", this::detail),
                new Route("GET", "/v1/workflows/logs", this::logs),
                new Route("POST", "/v1/workflows/tasks/([^/]+)/stop", this::stop),
                new Route("POST", "/v1/workflows/([^/]+)/run", this::runVersion));

        Dify(Behaviour behaviour) {
            this.behaviour = behaviour;
            this.app = DifyExec.Demo.App.of(behaviour.version(), behaviour.columns());
            this.worker = behaviour.version().hasWorker();
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
            exchange.header("X-Version", behaviour.version().number).header("X-Env", "PRODUCTION");
            if (!worker) exchange.header("Server", "gunicorn").header("Connection", "keep-alive");
            try {
                route(exchange);
            } catch (DifyExec.Demo.Refused refused) {
                exchange.send((DifyExec.Demo.Reply.Whole) refused.reply);
            }
        }

        private void route(Exchange exchange) throws IOException, InterruptedException {
            if (exchange.path().contains("//")) {
                exchange.header("Location", exchange.path().replaceAll("/+", "/")).send(308, "text/html; charset=utf-8",
                        "<!doctype html>\n<title>Redirecting...</title>\n");
                return;
            }
            var path = routes.stream().filter(each -> each.path().matcher(exchange.path()).matches()).toList();
            if (path.isEmpty()) throw new DifyExec.Demo.Refused(DifyExec.Demo.Reply.notFound());
            var method = exchange.method().equals("HEAD") ? "GET" : exchange.method();
            var route = path.stream().filter(each -> each.method().equals(method)).findFirst().orElseThrow(() ->
                    new DifyExec.Demo.Refused(405, "method_not_allowed",
                            "The method is not allowed for the requested URL."));
            checkKey(exchange);
            var match = route.path().matcher(exchange.path());
            route.action().answer(exchange, match.matches() && match.groupCount() > 0 ? match.group(1) : "");
        }

        private static void checkKey(Exchange exchange) {
            var words = exchange.headers().getOrDefault("authorization", "").split(" ", 2);
            if (words.length == 2 && words[0].equalsIgnoreCase("Bearer") && words[1].startsWith("app-")) return;
            exchange.header("WWW-Authenticate", "Bearer realm=\"api\"");
            throw new DifyExec.Demo.Refused(401, "unauthorized", words.length < 2
                    ? "Authorization header must be provided and start with 'Bearer'"
                    : words[0].equalsIgnoreCase("Bearer") ? "Access token is invalid"
                    : "Authorization scheme must be 'Bearer'");
        }

        // What is started

        private void runVersion(Exchange exchange, String workflow) throws IOException, InterruptedException {
            body(exchange);
            if (!isUuid(workflow)) throw new DifyExec.Demo.Refused(400, "bad_request",
                    "Invalid workflow_id format: '" + workflow + "'. ");
            if (!workflow.equals(app.workflow())) throw new DifyExec.Demo.Refused(404, "not_found",
                    "Workflow not found with id: " + workflow);
            run(exchange, "");
        }

        private void run(Exchange exchange, String id) throws IOException, InterruptedException {
            var body = body(exchange);
            if (!(body.get("inputs") instanceof Map<?, ?> inputs)) throw new DifyExec.Demo.Refused(worker
                    ? DifyExec.Demo.Reply.error(400, "invalid_param",
                            "1 validation error for WorkflowRunPayload\ninputs\n  Field required")
                    : DifyExec.Demo.Reply.of(400, DifyExec.Demo.object("errors",
                            DifyExec.Demo.object("inputs", "Missing required parameter in the JSON body"),
                            "message", "Input payload validation failed")));
            var user = user(body);
            var streaming = "streaming".equals(body.get("response_mode")); // all else is blocking
            var row = Objects.toString(inputs.get("id"), "");
            var fate = behaviour.fate(row, ledger.nextStart(row), inputs);
            if (worker && !streaming || !worker)
                fate = new Fate(fate.fault(), Duration.ZERO, fate.latency(), fate.die()); // no queue there
            ledger.met(fate.fault(), user);
            if (fate.fault() == Fault.THROTTLE) throw tooMany(behaviour.limit() > 0 ? behaviour.limit() : 10);
            if (worker && streaming) {
                if (behaviour.limit() == 1) throw tooMany(1);
                begin(exchange, new Start(row, user, app.take(inputs), fate, true));
                return;
            }
            if (active.incrementAndGet() > behaviour.limit() && behaviour.limit() > 0) {
                active.decrementAndGet();
                throw tooMany(behaviour.limit());
            }
            try {
                begin(exchange, new Start(row, user, app.take(inputs), fate, streaming));
            } finally {
                active.decrementAndGet();
            }
        }

        /// A request that is about to start a run.
        private record Start(String row, String user, Map<String, Object> inputs, Fate fate, boolean streaming) {}

        private DifyExec.Demo.Refused tooMany(int limit) {
            return new DifyExec.Demo.Refused(400, "invalid_param", "Too many requests. Please try again later. The "
                    + "current maximum concurrent requests allowed for " + app.id() + " is " + limit + ".");
        }

        private void begin(Exchange exchange, Start start) throws IOException, InterruptedException {
            if (start.fate().fault().isRefusal()) {
                refuse(exchange, start);
                return;
            }
            var job = ledger.take(start.row(), start.user(), start.fate());
            Thread.startVirtualThread(() -> execute(job, start));
            switch (start.fate().fault()) {
                case GATEWAY -> gateway(exchange, job);
                case ERROR_500 -> {
                    Thread.sleep(job.fate.latency().dividedBy(2));
                    exchange.send(500, "application/json", DifyExec.Demo.Encoding.ESCAPED.json(DifyExec.Demo.object(
                            "code", "internal_server_error", "message", "The server encountered an internal error and "
                                    + "was unable to complete your request. Either the server is overloaded or there "
                                    + "is an error in the application.", "status", 500)) + "\n");
                }
                default -> {
                    if (start.streaming()) stream(exchange, job);
                    else block(exchange, job);
                }
            }
        }

        private void execute(Job job, Start start) {
            try {
                boolean atEnd = !worker && !start.streaming();
                job.run(app, start.inputs(), () -> {
                    ledger.began(job);
                    if (worker) ledger.list(job);
                }, () -> {
                    if (atEnd) ledger.list(job);
                });
            } catch (InterruptedException _) {
                Thread.currentThread().interrupt();
            }
        }

        private void refuse(Exchange exchange, Start start) throws IOException, InterruptedException {
            boolean inStream = worker && start.streaming();
            var message = "text in input form must be less than 48 characters";
            if (start.fate().fault() == Fault.REFUSE && !inStream)
                throw new DifyExec.Demo.Refused(400, "invalid_param", message);
            if (!inStream) {
                Thread.sleep(start.fate().latency().dividedBy(2));
                throw new IOException("the process that had this request is killed");
            }
            var out = exchange.stream();
            out.write(PING);
            if (start.fate().fault() == Fault.REFUSE)
                out.write(line(DifyExec.Demo.object("event", "error", "message", message, "status", 500)));
            Thread.sleep(behaviour.silence());
            out.end();
        }

        /// The proxy answers; Dify does not see that its client has left: the place stays taken to the run's end.
        private void gateway(Exchange exchange, Job job) throws IOException, InterruptedException {
            var status = List.of("502 Bad Gateway", "503 Service Temporarily Unavailable", "504 Gateway Time-out")
                    .get(job.fate.die() % 3);
            if (status.startsWith("504")) Thread.sleep(job.fate.latency().dividedBy(2));
            exchange.without("X-Version", "X-Env").header("Server", "nginx/1.22.1").header("Connection", "close")
                    .send(Integer.parseInt(status.substring(0, 3)), "text/html", ("<html>\n<head><title>" + status
                            + "</title></head>\n<body>\n<center><h1>" + status + "</h1></center>\n"
                            + "<hr><center>nginx/1.22.1</center>\n</body>\n</html>\n").replace("\n", "\r\n"));
            exchange.done();
            await(job.told);
        }

        private void block(Exchange exchange, Job job) throws IOException, InterruptedException {
            var fault = job.fate.fault();
            if (fault == Fault.DROP_BEFORE) {
                Thread.sleep(job.fate.latency().multipliedBy(job.fate.die() % 8).dividedBy(8));
                throw new IOException("dropped");
            }
            var told = await(job.told);
            if (fault == Fault.LOSE_FINISH) throw new IOException("dropped");
            var body = DifyExec.Demo.Encoding.SPACED.json(told.blocking());
            if (fault == Fault.DROP_AFTER) exchange.cut(200, behaviour.version().blockingType(), body);
            else exchange.send(200, behaviour.version().blockingType(), body);
        }

        private void stream(Exchange exchange, Job job) throws IOException, InterruptedException {
            int die = job.fate.die();
            var fault = job.fate.fault();
            if (fault == Fault.DROP_BEFORE && die % 2 == 0) throw new IOException("dropped");
            var out = exchange.stream();
            if (worker) out.write(PING);
            if (fault == Fault.DROP_BEFORE) {
                Thread.sleep(job.fate.queue().dividedBy(2));
                out.cut(PING);
            }
            var run = awaitBegin(job);
            if (run.isEmpty()) {
                out.end(); // it waited too long in the queue; it starts all the same
                return;
            }
            Thread.sleep(behaviour.version().opening());
            var opening = run.get().opening();
            int last = fault == Fault.DROP_AFTER && die % 3 > 0 ? 1 + die / 3 % opening.size() : opening.size();
            for (var event : opening.subList(0, last)) out.write(line(event));
            if (fault == Fault.DROP_AFTER && die % 3 > 0) out.cut(line(run.get().textChunk("Answer", "llm", "text")));
            if (fault == Fault.NEVER && worker) { // its worker was killed: not even pings
                Thread.sleep(behaviour.silence());
                out.end();
                return;
            }
            finish(out, job);
        }

        private void finish(Exchange.Chunks out, Job job) throws IOException, InterruptedException {
            var fault = job.fate.fault();
            var events = awaitEnd(out, job).closing();
            for (var event : events.subList(0, events.size() - 1)) out.write(line(event));
            if (!worker) ledger.list(job); // reached only while the client is there
            if (fault == Fault.DROP_AFTER) out.cut(line(events.getLast()));
            if (fault == Fault.LOSE_FINISH) Thread.sleep(worker ? behaviour.silence() : Duration.ZERO);
            else {
                out.write(line(events.getLast()));
                Thread.sleep(behaviour.version().linger());
            }
            out.end();
        }

        private Optional<DifyExec.Demo.Run> awaitBegin(Job job) throws InterruptedException {
            try {
                return Optional.of(job.began.get(behaviour.silence().toMillis(), MILLISECONDS));
            } catch (TimeoutException _) {
                return Optional.empty();
            } catch (ExecutionException problem) {
                throw new IllegalStateException(problem);
            }
        }

        private static Job.Told awaitEnd(Exchange.Chunks out, Job job) throws IOException, InterruptedException {
            while (true) {
                try {
                    return job.told.get(PING_PERIOD.toMillis(), MILLISECONDS);
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

        // What is asked

        private void info(Exchange exchange, String id) throws IOException {
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("name", "simulated", "description", "",
                    "tags", List.of(), "mode", "workflow", "author_name", "simulator")));
        }

        private void parameters(Exchange exchange, String id) throws IOException {
            var off = DifyExec.Demo.object("enabled", false);
            var form = app.columns().stream().map(column -> DifyExec.Demo.object("paragraph", DifyExec.Demo.object(
                    "label", column, "max_length", null, "options", List.of(), "required", false,
                    "type", "paragraph", "variable", column))).toList();
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("opening_statement", null,
                    "suggested_questions", List.of(), "suggested_questions_after_answer", off, "speech_to_text", off,
                    "text_to_speech", DifyExec.Demo.object("enabled", false, "voice", "", "language", ""),
                    "retriever_resource", off, "annotation_reply", off, "more_like_this", off, "user_input_form", form,
                    "sensitive_word_avoidance", off, "file_upload", off, "system_parameters", DifyExec.Demo.object(
                            "image_file_size_limit", 10, "video_file_size_limit", 100, "audio_file_size_limit", 50,
                            "file_size_limit", 15, "workflow_file_upload_limit", 10))));
        }

        private void detail(Exchange exchange, String id) throws IOException {
            if (!isUuid(id)) throw unknown();
            ledger.looks.incrementAndGet();
            var found = ledger.withRun(id).flatMap(Job::now);
            if (found.isPresent()) exchange.send(DifyExec.Demo.Reply.of(200, found.get().detail()));
            else if (worker) throw new DifyExec.Demo.Refused(404, "not_found", "Workflow run not found.");
            else {
                var detail = DifyExec.Demo.Run.begin(app, "", Map.of(), Instant.EPOCH).detail();
                detail.replaceAll((_, _) -> null);
                exchange.send(DifyExec.Demo.Reply.of(200, detail));
            }
        }

        private void logs(Exchange exchange, String id) throws IOException {
            ledger.looks.incrementAndGet();
            var status = exchange.query("status");
            if (!List.of("", "succeeded", "failed", "stopped").contains(status)) throw new DifyExec.Demo.Refused(worker
                    ? DifyExec.Demo.Reply.error(400, "invalid_param", "1 validation error for WorkflowLogQuery\nstatus")
                    : DifyExec.Demo.Reply.of(400, DifyExec.Demo.object("errors", DifyExec.Demo.object("status",
                            "The value '" + status + "' is not a valid choice for 'status'."),
                            "message", "Input payload validation failed")));
            int page = exchange.number("page", 1), limit = exchange.number("limit", 20);
            var after = time(exchange, "created_at__after", Instant.MIN);
            var before = time(exchange, "created_at__before", Instant.MAX);
            var keyword = exchange.query("keyword").toLowerCase(Locale.ROOT);
            var word = keyword.substring(0, Math.min(30, keyword.length()));
            var all = ledger.listed(exchange.query("created_by_end_user_session_id"))
                    .filter(run -> status.isEmpty() || run.state().stored().equals(status))
                    .filter(run -> !run.created().isBefore(after) && !run.created().isAfter(before))
                    .filter(run -> word.isEmpty() || (run.id() + " " + run.user() + " " + run.inputs() + " "
                            + run.state().outputs()).toLowerCase(Locale.ROOT).contains(word)).toList();
            var rows = all.stream().skip((page - 1L) * limit).limit(limit).map(DifyExec.Demo.Run::logRow).toList();
            exchange.send(DifyExec.Demo.Reply.of(200, DifyExec.Demo.object("page", page, "limit", limit,
                    "total", all.size(), "has_more", all.size() > (long) page * limit, "data", rows)));
        }

        private static Instant time(Exchange exchange, String name, Instant otherwise) {
            var text = exchange.query(name);
            try {
                return text.isEmpty() ? otherwise : Instant.parse(text);
            } catch (DateTimeException _) {
                throw new DifyExec.Demo.Refused(400, "invalid_param", "invalid literal for int() with base 10: '" + text
                        + "'");
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

        private static String user(Map<?, ?> body) {
            var user = Objects.toString(body.get("user"), "");
            if (user.isEmpty()) throw new DifyExec.Demo.Refused(400, "invalid_param", "Arg user must be provided.");
            return user;
        }

        private static DifyExec.Demo.Refused unknown() {
            return new DifyExec.Demo.Refused(500, "unknown", "Internal Server Error");
        }

        private static boolean isUuid(String text) {
            return text.matches("\\p{XDigit}{8}(-\\p{XDigit}{4}){3}-\\p{XDigit}{12}");
        }
    }

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
        private static final Map<Integer, String> REASONS = Map.of(200, "OK", 308, "PERMANENT REDIRECT", 400,
                "BAD REQUEST", 401, "UNAUTHORIZED", 404, "NOT FOUND", 405, "METHOD NOT ALLOWED", 500,
                "INTERNAL SERVER ERROR");

        private final String method, target;
        private final Map<String, String> headers;
        private final byte[] body;
        private final OutputStream out;
        private final Map<String, String> answer = new LinkedHashMap<>();
        private boolean last;

        private Exchange(String method, String target, Map<String, String> headers, byte[] body, OutputStream out) {
            this.method = method;
            this.target = target;
            this.headers = headers;
            this.body = body;
            this.out = out;
            this.last = headers.getOrDefault("connection", "").equalsIgnoreCase("close");
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
            return Optional.of(new Exchange(words[0], words[1], headers, body(in, headers), out));
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

        int number(String name, int otherwise) {
            return query(name).matches("\\d{1,5}") ? Integer.parseInt(query(name)) : otherwise;
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
