package difyexec;

import com.fasterxml.jackson.databind.*;
import difyexec.SimulatedExchange.*;
import difyexec.SimulatedJob.*;
import difyexec.SimulatedRoute.Breakage;
import difyexec.SimulatedRun.*;
import difyexec.Simulator.*;
import difyexec.Simulator.Pace;
import difyexec.Simulator.Setup.Kind;

import module java.base;

import static difyexec.SimulatedJson.object;
import static java.util.concurrent.TimeUnit.MILLISECONDS;

/// The app's API: answers each exchange, on any thread.
final class SimulatedDify {
    private static final Duration PING_PERIOD = Duration.ofSeconds(10);
    private static final String WRONG_ROUTE = "Please check if your app mode matches the right API route.";
    private static final String PING = Chunks.PING;
    static final String APP_ID = "x-dify-app-id";
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Behaviour behaviour;
    private final Setup setup;
    private final boolean worker, makesUpEnds;
    private final Pace pace;
    private final SimulatedFiles files;
    private final SimulatedLedger ledger;
    private final SimulatedConversations conversations;
    private final SimulatedWorkers workers;
    private final AtomicInteger active = new AtomicInteger();
    private final Map<String, Published> versions = new ConcurrentHashMap<>();
    private final Set<String> deletedKeys = ConcurrentHashMap.newKeySet();
    /// The ids of the apps that each workspace key is bound to.
    private final Map<String, Set<String>> workspaceKeys = new ConcurrentHashMap<>();
    private final String draft = UUID.randomUUID().toString();
    private volatile Published current;
    private volatile String name;
    private volatile Access access = Access.OPEN;
    private volatile Instant workerReady = Instant.MIN;
    private volatile Runnable onStart = () -> {};
    private volatile int largestPage = Integer.MAX_VALUE;
    private volatile boolean isAtOnce = false;
    private volatile Optional<SimulatedGateway> gateway = Optional.empty();
    /// Holds the messages that were torn; empty if none is.
    private volatile Optional<Set<Object>> torn = Optional.empty();
    private final Map<SimulatedRoute, Breakage> broken = new ConcurrentHashMap<>();
    /// The requests for runs that come before a route breaks.
    private volatile int breakAfter = 0;
    private final AtomicInteger asked = new AtomicInteger(), brokenResponses = new AtomicInteger();
    /// See each request before it is answered.
    final List<Consumer<SimulatedExchange>> listeners = new CopyOnWriteArrayList<>();
    private final List<Route> routes;

    SimulatedDify(Behaviour behaviour, Setup setup) {
        this(behaviour, setup, new SimulatedLedger());
    }

    /// @param ledger the runs of the server that this one replaced
    SimulatedDify(Behaviour behaviour, Setup setup, SimulatedLedger ledger) {
        this.ledger = ledger;
        this.behaviour = behaviour;
        this.setup = setup;
        this.name = setup.name();
        this.worker = behaviour.version().hasWorker();
        this.makesUpEnds = behaviour.version().isFrom(Version.V1_16_0);
        this.pace = behaviour.pace();
        this.conversations = new SimulatedConversations(pace);
        this.files = new SimulatedFiles(setup.answers());
        this.workers = new SimulatedWorkers(behaviour.workers(), behaviour.slots(), behaviour.seed());
        this.routes = Stream.concat(shared(), worker ? newer() : Stream.of()).toList();
        publish(behaviour.fields(), setup.graph());
    }

    /// With the simulator's options.
    static SimulatedDify of(String... options) {
        var simulator = Simulator.of(options);
        var dify = new SimulatedDify(simulator.behaviour(), simulator.setup());
        simulator.prepare(dify);
        return dify;
    }

    private Stream<Route> shared() {
        return Stream.of(new Route(SimulatedRoute.INFO, "GET", "/v1/info", this::info),
                new Route(SimulatedRoute.FORM, "GET", "/v1/parameters", this::parameters),
                new Route(SimulatedRoute.UPLOAD, "POST", "/v1/files/upload", this::upload),
                new Route(SimulatedRoute.RUN, "POST", "/v1/workflows/run", this::run),
                new Route(SimulatedRoute.RUN, "POST", "/v1/chat-messages", this::chat),
                new Route(SimulatedRoute.RUN, "POST", "/v1/completion-messages", this::complete),
                new Route(SimulatedRoute.LIST, "GET", "/v1/conversations", this::conversations),
                new Route(SimulatedRoute.MESSAGES, "GET", "/v1/messages", this::messages),
                new Route(SimulatedRoute.STOP, "POST", "/v1/chat-messages/([^/]+)/stop", this::stop),
                new Route(SimulatedRoute.STOP, "POST", "/v1/completion-messages/([^/]+)/stop", this::stop),
                new Route(SimulatedRoute.LOOK_UP, "GET", "/v1/workflows/run/([^/]+)", this::detail),
                new Route(SimulatedRoute.LIST, "GET", "/v1/workflows/logs", this::logs),
                new Route(SimulatedRoute.STOP, "POST", "/v1/workflows/tasks/([^/]+)/stop", this::stop),
                new Route(SimulatedRoute.RUN, "POST", "/v1/workflows/([^/]+)/run", this::run),
                new Route(SimulatedRoute.DOWNLOAD, "GET", "/files/([^/]+)/file-preview", this::download));
    }

    private Stream<Route> newer() {
        return Stream.of(new Route(SimulatedRoute.FORM, "GET", "/v1/form/human_input/([^/]+)", this::question),
                new Route(SimulatedRoute.FORM, "POST", "/v1/form/human_input/([^/]+)", this::answered));
    }

    /// Publishes another version of the workflow; active runs keep theirs.
    void publish(JsonNode fields, Optional<SimulatedGraph> graph) {
        current = Published.of(behaviour.version(), fields, setup, graph, files);
        versions.put(published(), current);
    }

    /// The id of the version that is published now.
    String published() {
        return current.app().workflow();
    }

    /// The id of the version that is being edited.
    String draft() {
        return draft;
    }

    /// 1.14.2 and 1.16.1 forget the keys of a deleted app at once, 1.16.0 within ten seconds, 1.9.2 not.
    void become(Access access) {
        boolean atOnce = access == Access.DELETED && worker && behaviour.version() != Version.V1_16_0;
        this.access = atOnce ? Access.FORGOTTEN : access;
    }

    /// Asks the worker to shut down, as at each deployment; another one replaces it.
    void endWorker() {
        ledger.all().forEach(SimulatedJob::endWorker);
    }

    /// Kills the worker. The one that replaces it knows nothing of its runs.
    void killWorker() {
        ledger.all().forEach(SimulatedJob::killWorker);
    }

    /// Kills the API: its active runs stay running for ever, those of a worker continue.
    void killApi() {
        ledger.all().forEach(SimulatedJob::killApi);
    }

    /// Kills API and worker: active runs stay running for ever.
    void kill() {
        ledger.all().forEach(SimulatedJob::kill);
    }

    /// Active runs end now, and later ones at once.
    void finishRuns() {
        isAtOnce = true;
        ledger.all().forEach(SimulatedJob::finish);
    }

    /// The worker starts no run before this time.
    void workerReadyAt(Instant time) {
        workerReady = time;
    }

    /// No page of the log has more runs, whatever is asked for.
    void limitPages(int most) {
        largestPage = most;
    }

    /// From now on, or after that many requests for runs, every response of this route breaks so. Other routes work.
    void breakRoute(SimulatedRoute route, Breakage breakage, int after) {
        broken.put(route, breakage);
        breakAfter = after;
    }

    int brokenResponses() {
        return brokenResponses.get();
    }

    /// All routes work again.
    void repairRoutes() {
        broken.clear();
    }

    /// From now on, requests for runs pass a gateway.
    void putBehind(SimulatedGateway gateway) {
        this.gateway = Optional.of(gateway);
    }

    /// From now on, each message is torn when it is first read after its row has ended.
    void tearMessages() {
        torn = Optional.of(ConcurrentHashMap.newKeySet());
    }

    /// Later runs of a workflow have a number among their outputs.
    void outputScores() {
        files.outputScores();
    }

    /// Later runs have a file among their outputs, which this server serves.
    void outputFiles() {
        files.outputFiles();
    }

    void rename(String name) {
        this.name = name;
    }

    void delete(String key) {
        deletedKeys.add(key);
    }

    /// Does this whenever a request for a run is accepted.
    void onStart(Runnable what) {
        onStart = what;
    }

    void bind(String key, Set<String> apps) {
        workspaceKeys.put(key, apps);
    }

    /// Forgets all requests except those of these users; `*` keeps all requests until the first such call.
    void keep(Set<String> users) {
        conversations.keep(ledger.keep(users));
    }

    /// A total of `/__stats`, say `started` or `twice`.
    int count(String what) {
        return (int) ledger.stats(false).get(what);
    }

    SimulatedLedger ledger() {
        return ledger;
    }

    /// How long a connection may be idle; zero for no limit.
    Duration idle() {
        return worker ? Duration.ZERO : Duration.ofSeconds(2);
    }

    void answer(SimulatedExchange exchange) throws IOException, InterruptedException {
        if (exchange.path().equals("/__stats")) {
            exchange.send(200, "application/json", SimulatedJson.ESCAPED
                    .json(ledger.stats(!exchange.query("rows").equals("0"))) + "\n");
            return;
        }
        listeners.forEach(listener -> listener.accept(exchange));
        if (exchange.method().equals("PRI")) {
            exchange.header("Connection", "close").send(400, worker ? "" : "text/html",
                    worker ? "" : "<html>\n  <head>\n    <title>Bad Request</title>\n  </head>\n</html>\n");
            return;
        }
        boolean isRun = exchange.method().equals("POST") && !exchange.path().endsWith("/stop");
        if (gateway.isPresent() && isRun) gateway.get().pass(exchange, pace, this::reply);
        else reply(exchange);
    }

    private void reply(SimulatedExchange exchange) throws IOException, InterruptedException {
        exchange.header("X-Version", behaviour.version().number).header("X-Env", "PRODUCTION");
        if (!worker) exchange.header("Server", "gunicorn").header("Connection", "keep-alive");
        try {
            route(exchange);
        } catch (Refused refused) {
            exchange.send(refused.reply);
        }
    }

    private void route(SimulatedExchange exchange) throws IOException, InterruptedException {
        if (exchange.path().contains("//") || exchange.path().equals("/v1")) {
            var place = exchange.path().equals("/v1") ? "/v1/" : exchange.path().replaceAll("/+", "/");
            exchange.header("Location", place).send(308, "text/html; charset=utf-8",
                    "<!doctype html>\n<title>Redirecting...</title>\n");
            return;
        }
        if (exchange.path().equals("/health")) {
            exchange.send(200, "application/json", SimulatedJson.SPACED.json(object(
                    "pid", ProcessHandle.current().pid(), "status", "ok", "version", behaviour.version().number)));
            return;
        }
        var path = routes.stream().filter(each -> each.path().matcher(exchange.path()).matches()).toList();
        if (path.isEmpty()) throw new Refused(Reply.notFound());
        var methods = path.stream().map(Route::method).distinct().sorted().toList();
        if (exchange.method().equals("OPTIONS")) {
            exchange.header("Allow", "OPTIONS, " + String.join(", ", methods))
                    .send(200, "text/html; charset=utf-8", "");
            return;
        }
        var method = exchange.method().equals("HEAD") ? "GET" : exchange.method();
        var route = path.stream().filter(each -> each.method().equals(method)).findFirst().orElseThrow(() ->
                refused(405, "method_not_allowed", "The method is not allowed for the requested URL."));
        var breakage = broken.get(route.part());
        if (breakage != null && asked.get() >= breakAfter) {
            brokenResponses.incrementAndGet();
            exchange.breakAnswer(breakage, Duration.ofMillis(pace.millis(PING_PERIOD)));
            if (breakage == Breakage.REDIRECT) throw new Refused(Reply.notFound()); // nothing is carried out
        }
        if (route.part() != SimulatedRoute.DOWNLOAD) checkKey(exchange); // its link is signed
        var match = route.path().matcher(exchange.path());
        route.action().answer(exchange, match.matches() && match.groupCount() > 0 ? match.group(1) : "");
    }

    private void checkKey(SimulatedExchange exchange) {
        var words = exchange.headers().getOrDefault("authorization", "").strip().split("\\s+", 2);
        var key = words.length < 2 ? "" : words[1];
        boolean known = (key.startsWith("app-") || workspaceKeys.containsKey(key)) && !deletedKeys.contains(key);
        if (words.length < 2) throw unauthorized(exchange,
                "Authorization header must be provided and start with 'Bearer'");
        if (!words[0].equalsIgnoreCase("Bearer"))
            throw unauthorized(exchange, "Authorization scheme must be 'Bearer'");
        if (key.startsWith("sk-") && !known) throw unauthorized(exchange, "Resource access token is invalid.");
        if (!known || access == Access.FORGOTTEN) throw unauthorized(exchange, "Access token is invalid");
        if (workspaceKeys.containsKey(key))
            checkApp(exchange.headers().getOrDefault(APP_ID, ""), workspaceKeys.get(key));
        if (access == Access.DELETED) throw refused(403, "forbidden", "The app no longer exists.");
        if (access == Access.DISABLED)
            throw refused(403, "forbidden", "The app's API service has been disabled.");
    }

    private static void checkApp(String id, Set<String> apps) {
        if (id.isEmpty() && apps.size() > 1) throw refused(400, "bad_request",
                "App ID is required when a resource access token is bound to multiple apps.");
        if (!id.isEmpty() && !apps.contains(id)) throw refused(403, "forbidden",
                "The resource access token is not allowed to access this app.");
    }

    private static Refused unauthorized(SimulatedExchange exchange, String message) {
        exchange.header("WWW-Authenticate", "Bearer realm=\"api\"");
        return refused(401, "unauthorized", message);
    }

    // What is started

    /// `id` is that of a version, or empty for the published one. The order of the checks is Dify's.
    private void run(SimulatedExchange exchange, String id) throws IOException, InterruptedException {
        var body = body(exchange);
        if (!setup.kind().mode.equals("workflow")) throw refused(400, "not_workflow_app", WRONG_ROUTE);
        var inputs = inputs(body);
        checkMode(body);
        checkTrace(exchange, body);
        start(exchange, new Asked(Objects.toString(inputs.get("id"), ""), user(body), inputs, Optional.empty(),
                isStreaming(body), id));
    }

    /// Asks a chat app a question. The row is that of the input `id`, or else the question itself.
    private void chat(SimulatedExchange exchange, String id) throws IOException, InterruptedException {
        var body = body(exchange);
        checkChat();
        var inputs = inputs(body);
        checkMode(body);
        var question = question(user(body), body);
        var version = setup.kind() == Kind.CHATFLOW ? Objects.toString(body.get("workflow_id"), "") : "";
        start(exchange, new Asked(Objects.toString(inputs.get("id"), question.query()), user(body), inputs,
                Optional.of(question), isStreaming(body), version));
    }

    /// Asks a completion app. The row is that of the input `id`, or else all inputs.
    private void complete(SimulatedExchange exchange, String id) throws IOException, InterruptedException {
        var body = body(exchange);
        if (setup.kind() != Kind.COMPLETION) throw unavailable();
        var inputs = inputs(body);
        checkMode(body);
        var question = SimulatedMessage.of(setup.kind(), "", Objects.toString(body.get("query"), ""))
                .with(beside(user(body), body));
        start(exchange, new Asked(Objects.toString(inputs.get("id"), inputs.toString()), user(body), inputs,
                Optional.of(question), isStreaming(body), ""));
    }

    /// All else is blocking, except for the new agent.
    private boolean isStreaming(Map<?, ?> body) {
        return "streaming".equals(body.get("response_mode"))
                || setup.kind() == Kind.AGENT && body.get("response_mode") == null;
    }

    /// The files beside a question. The new agent passes them to its tools without a check.
    private List<Map<String, Object>> beside(String user, Map<?, ?> body) {
        if (!setup.kind().isPlain() || setup.kind() == Kind.AGENT) return List.of();
        try {
            return files.beside(body.get("files"), user, worker, setup.traits().files());
        } catch (SimulatedForm.Refusal refusal) {
            throw refused(400, "invalid_param", refusal.getMessage());
        }
    }

    private void start(SimulatedExchange exchange, Asked asked) throws IOException, InterruptedException {
        var rolled = behaviour.fate(asked.row(), ledger.nextStart(asked.row()), asked.texts());
        var fate = possible(rolled, asked.streaming());
        ledger.met(fate.fault(), asked.user());
        this.asked.incrementAndGet();
        onStart.run();
        if (fate.fault() == Fault.THROTTLE) throw tooMany(behaviour.limit() > 0 ? behaviour.limit() : 10);
        if (isInWorker(asked.streaming())) {
            if (behaviour.limit() == 1) throw tooMany(1);
            begin(exchange, asked.start(fate, version(asked.version())));
            return;
        }
        if (active.incrementAndGet() > behaviour.limit() && behaviour.limit() > 0) {
            active.decrementAndGet();
            throw tooMany(behaviour.limit());
        }
        try {
            begin(exchange, asked.start(fate, version(asked.version())));
        } finally {
            if (fate.fault() != Fault.KILL) active.decrementAndGet(); // a killed process releases nothing
        }
    }

    private boolean isInWorker(boolean streaming) {
        return worker && streaming && !setup.kind().isPlain();
    }

    /// Only 1.14.2 treats an unknown conversation as a new one.
    private SimulatedMessage question(String user, Map<?, ?> body) {
        if (!(body.get("query") instanceof String query)) throw worker
                ? mistake(payload(), "query", "Field required", "missing", "dict")
                : mismatch("query", "The chat query Missing required parameter in the JSON body");
        var conversation = Objects.toString(body.get("conversation_id"), "");
        if (!conversation.isEmpty() && !SimulatedFiles.isUuid(conversation)) throw worker
                ? mistake(payload(), "conversation_id", "Value error, conversation_id must be a valid UUID",
                        "value_error", "str")
                : mismatch("conversation_id", "Existing conversation ID " + conversation + " is not a valid uuid.");
        int before = conversations.messages(user, conversation).size();
        if (before == 0 && !conversation.isEmpty() && behaviour.version() != Version.V1_14_2)
            throw noConversation("/v1/chat-messages", "/v1/chat-messages or /api/chat-messages or "
                    + "/v1/chat-messages/<string:task_id>/stop");
        if (setup.kind() == Kind.AGENT_CHAT && !isStreaming(body))
            throw refused(400, "invalid_param", "Agent Chat App does not support blocking mode");
        if (setup.kind() == Kind.AGENT && !isStreaming(body))
            throw refused(400, "bad_request", "Agent App only supports streaming response mode.");
        return SimulatedMessage.of(setup.kind(), before > 0 ? conversation : UUID.randomUUID().toString(), query)
                .after(before, !Boolean.FALSE.equals(body.get("auto_generate_name"))).with(beside(user, body));
    }

    private static Refused noConversation(String path, String others) {
        return refused(404, "not_found", "Conversation Not Exists. You have requested this URI [" + path
                + "] but did you mean " + others + " ?");
    }

    private String payload() {
        return setup.kind().isChat() ? "ChatRequestPayload"
                : setup.kind() == Kind.COMPLETION ? "CompletionRequestPayload" : "WorkflowRunPayload";
    }

    /// A run waits in a queue only in a worker, and only the worker of 1.16.0 cuts its streams; neither a workflow nor
    /// the new agent is moderated. A restart of the database was recorded with streams.
    private Fate possible(Fate fate, boolean streaming) {
        boolean newStream = makesUpEnds && streaming, isPlain = setup.kind().isPlain();
        boolean isPossible = switch (fate.fault()) {
            case REPLACE, PRESET -> setup.kind() == Kind.CHATFLOW || isPlain && setup.kind() != Kind.AGENT;
            case PAUSE -> isPlain ? setup.kind() == Kind.AGENT : worker; // 1.9.2 cannot resume
            case UNRECORDED -> streaming;
            case EMPTY, TRUNCATE -> isPlain;
            case PARTIAL, FALSE_FAIL, ERROR_FIRST, STEP_LIMIT, EMPTY_OUTPUT, NO_OUTPUT, WRONG_OUTPUT -> !isPlain;
            default -> newStream && !isPlain || !fate.fault().isOfNewStreams();
        };
        return new Fate(isPossible ? fate.fault() : Fault.NONE, isInWorker(streaming) ? fate.queue()
                : behaviour.start().at(fate.die() / (double) Fate.DICE), isAtOnce ? Duration.ZERO : fate.latency(),
                behaviour.version().movesRuns() ? fate.move() : Duration.ZERO, fate.die());
    }

    private Map<?, ?> inputs(Map<?, ?> body) {
        var given = body.get("inputs");
        if (given instanceof Map<?, ?> inputs) return inputs;
        if (worker && !body.containsKey("inputs"))
            throw mistake(payload(), "inputs", "Field required", "missing", "dict");
        if (worker) throw mistake(payload(), "inputs", "Input should be a valid dictionary", "dict_type",
                pythonType(given));
        if (given instanceof Collection<?> pairs) return paired(pairs);
        throw mismatch("inputs", (setup.kind().isChat() ? "Input parameters for chat "
                : setup.kind() == Kind.COMPLETION ? "Input parameters for completion " : "")
                + (body.containsKey("inputs") ? "Must not be null!" : "Missing required parameter in the JSON body"));
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
        boolean isWorkflow = setup.kind().mode.equals("workflow");
        if (!worker) throw mismatch("response_mode", (isWorkflow ? "" : "Response mode ") + "The value '"
                + (mode == null ? "None" : mode) + "' is not a valid choice for 'response_mode'.");
        if (mode != null) throw mistake(payload(), "response_mode",
                "Input should be 'blocking' or 'streaming'", "literal_error", pythonType(mode));
    }

    private void checkTrace(SimulatedExchange exchange, Map<?, ?> body) {
        var header = exchange.headers().get("x-trace-session-id");
        var session = body.containsKey("trace_session_id") ? body.get("trace_session_id") : header;
        if (worker && session instanceof String text && (text.isBlank() || text.strip().length() > 200))
            throw refused(400, "bad_request", "trace_session_id must be 1 to 200 characters after trimming.");
    }

    /// The answer from 1.14.2 on to an invalid body or query, as Pydantic reports it.
    private static Refused mistake(String model, String field, String what, String kind, String type) {
        return refused(400, "invalid_param", "1 validation error for " + model + "\n" + field
                + "\n  " + what + " [type=" + kind + ", input_value=…, input_type=" + type
                + "]\n    For further information visit https://errors.pydantic.dev/2.12/v/" + kind);
    }

    /// The answer of 1.9.2 to them.
    private static Refused mismatch(String field, String what) {
        return new Refused(Reply.of(400, object(
                "errors", object(field, what), "message", "Input payload validation failed")));
    }

    private Published version(String id) {
        if (id.isEmpty() && setup.kind() == Kind.UNPUBLISHED)
            throw refused(400, "invalid_param", "Workflow not published");
        if (id.isEmpty()) return current;
        if (!SimulatedFiles.isUuid(id)) throw refused(400, "bad_request", "Invalid workflow_id format: '" + id + "'. ");
        if (id.equals(draft)) throw refused(400, "bad_request",
                "Cannot use draft workflow version. Workflow ID: " + id
                        + ". Please use a published workflow version or leave workflow_id empty.");
        if (!versions.containsKey(id)) throw refused(404, "not_found", "Workflow not found with id: " + id);
        return versions.get(id);
    }

    private Refused tooMany(int limit) {
        return refused(400, "invalid_param", "Too many requests. Please try again later. The "
                + "current maximum concurrent requests allowed for " + current.app().id() + " is " + limit + ".");
    }

    private void begin(SimulatedExchange exchange, Start start) throws IOException, InterruptedException {
        boolean inStream = isInWorker(start.streaming());
        Map<String, Object> taken;
        try {
            if (start.fate().fault() == Fault.REFUSE)
                throw SimulatedForm.refusal("text in input form must be less than 48 characters");
            if (start.question().filter(this::isUnasked).isPresent())
                throw SimulatedForm.refusal("query is required");
            taken = start.version().form().taken(start.inputs(), start.user());
        } catch (SimulatedForm.Refusal refusal) {
            if (!inStream) throw refusal.broken ? broken() : refused(400, "invalid_param", refusal.getMessage());
            error(exchange, start, object("event", "error", "message", refusal.getMessage(), "status", 500));
            return;
        }
        var kind = start.version().graph().flatMap(SimulatedGraph::unknown);
        if (kind.isPresent()) {
            var message = "No class mapping found for node type: " + kind.get();
            if (!inStream) throw refused(400, "invalid_param", message);
            error(exchange, start, object("event", "error", "workflow_run_id", null,
                    "code", "invalid_param", "status", 400, "message", message));
            return;
        }
        switch (start.fate().fault()) {
            case LOST -> lose(exchange, start, inStream);
            case BROKEN_ABSENT -> makeUp(exchange, MadeUp.of(start, MadeUp.NO_END));
            default -> take(exchange, start, taken);
        }
    }

    private boolean isUnasked(SimulatedMessage asked) {
        return switch (setup.kind()) {
            case COMPLETION -> false;
            case AGENT -> asked.query().isBlank();
            default -> asked.query().isEmpty();
        };
    }

    /// The stream of 1.14.2 stays open after it, and holds its connection even if its client is gone. That
    /// of 1.16.0 gets a made-up end, instead of an error without a code and after one with a code.
    private void error(SimulatedExchange exchange, Start start, Map<String, Object> event)
            throws IOException, InterruptedException {
        boolean isCoded = event.containsKey("code");
        if (makesUpEnds && !isCoded) {
            makeUp(exchange, MadeUp.of(start, (String) event.get("message")));
        } else if (makesUpEnds) {
            var text = behaviour.version().isFrom(Version.V1_16_1) ? (String) event.get("message") : MadeUp.NO_END;
            makeUp(exchange, MadeUp.of(start, text), line(event));
        } else {
            var out = exchange.stream(behaviour.version().movesRuns());
            out.write(PING);
            out.write(line(event));
            fallSilent(out);
        }
    }

    private void makeUp(SimulatedExchange exchange, MadeUp end, String... before)
            throws IOException, InterruptedException {
        var out = exchange.stream(behaviour.version().movesRuns());
        out.write(PING);
        pace.pause(behaviour.version().opening());
        for (var line : before) out.write(line);
        out.write(line(end.started()));
        out.write(line(end.finished()));
        out.end();
    }

    private void lose(SimulatedExchange exchange, Start start, boolean inStream)
            throws IOException, InterruptedException {
        if (!inStream) {
            pace.pause(start.fate().latency().dividedBy(2));
            throw new IOException("the process that had this request is killed");
        }
        var out = exchange.stream(behaviour.version().movesRuns());
        out.write(PING);
        fallSilent(out);
    }

    /// Nothing more is sent, not even a ping: 1.9.2 ends such a stream at once.
    private void fallSilent(Chunks out) throws IOException, InterruptedException {
        pace.pause(worker ? behaviour.silence() : Duration.ZERO);
        out.end();
    }

    private void take(SimulatedExchange exchange, Start start, Map<String, Object> taken)
            throws IOException, InterruptedException {
        if (start.isCutAtOnce()) {
            Thread.startVirtualThread(() -> launch(start, taken));
            throw new IOException("dropped");
        }
        var job = launch(start, taken);
        switch (start.fate().fault()) {
            case GATEWAY -> gateway(exchange, job);
            case ERROR_500 -> {
                pace.pause(job.fate.latency().dividedBy(2));
                exchange.send(broken().reply);
            }
            default -> {
                if (!start.streaming()) block(exchange, job);
                else if (job.talk.isPresent()) converse(exchange, job, job.talk.get());
                else if (job.fate.fault() == Fault.FREEZE) freeze(exchange, job);
                else stream(exchange, job);
            }
        }
    }

    private SimulatedJob launch(Start start, Map<String, Object> taken) {
        start.question().filter(asked -> !asked.conversation().isEmpty())
                .ifPresent(_ -> conversations.meet(start.user(), true));
        if (start.question().filter(SimulatedMessage::isNamed).isPresent()) ledger.names.incrementAndGet();
        var job = ledger.take(start.row(), start, pace);
        Thread.startVirtualThread(() -> execute(job, taken));
        return job;
    }

    private static Refused broken() {
        return refused(500, "internal_server_error", "The server encountered an internal error "
                + "and was unable to complete your request. Either the server is overloaded or there is an error "
                + "in the application.");
    }

    private void execute(SimulatedJob job, Map<String, Object> inputs) {
        var done = job.isInWorker() ? workers.submit().join() : (Runnable) () -> {};
        try {
            boolean isSlow = job.streaming && job.talk.isEmpty();
            for (var now = Instant.now(); isSlow && now.isBefore(workerReady); now = Instant.now())
                Thread.sleep(Duration.between(now, workerReady));
            boolean isListed = job.question.isEmpty(); // the log has no chatflow runs
            boolean atEnd = isListed && !worker && !job.streaming;
            job.run(inputs, () -> {
                if (!job.isPreset()) ledger.began(job);
                conversations.add(job);
                if (isListed && worker) ledger.list(job);
            }, () -> {
                if (atEnd) ledger.list(job);
            });
        } catch (InterruptedException _) {
            Thread.currentThread().interrupt();
        } finally {
            done.run();
        }
    }

    /// The proxy answers. Dify does not notice that its client has left, so the slot stays taken until the run ends.
    private void gateway(SimulatedExchange exchange, SimulatedJob job) throws IOException, InterruptedException {
        var status = List.of("502 Bad Gateway", "503 Service Temporarily Unavailable", "504 Gateway Time-out")
                .get(job.fate.die() % 3);
        if (status.startsWith("504")) pace.pause(job.fate.latency().dividedBy(2));
        exchange.without("X-Version", "X-Env").header("Server", "nginx/1.22.1").header("Connection", "close")
                .send(Integer.parseInt(status.substring(0, 3)), "text/html", ("<html>\n<head><title>" + status
                        + "</title></head>\n<body>\n<center><h1>" + status + "</h1></center>\n"
                        + "<hr><center>nginx/1.22.1</center>\n</body>\n</html>\n").replace("\n", "\r\n"));
        CompletableFuture.anyOf(job.reported, job.killed).join();
    }

    private void block(SimulatedExchange exchange, SimulatedJob job) throws IOException, InterruptedException {
        var fault = job.fate.fault();
        if (fault == Fault.DROP_BEFORE) {
            pace.pause(job.fate.latency().multipliedBy(job.fate.die() % 8).dividedBy(8));
            throw new IOException("dropped");
        }
        if (fault == Fault.KILL) kill(job);
        if (fault == Fault.FREEZE) freeze(exchange, job);
        CompletableFuture.anyOf(job.reported, job.killed).join();
        if (!job.reported.isDone()) throw new IOException("the process that had this request is killed");
        var reported = job.reported.join();
        if (job.isEndless()) job.resumed.join();
        if (fault == Fault.LOSE_FINISH) throw new IOException("dropped");
        var reply = reply(job, reported);
        if (fault == Fault.DROP_AFTER) exchange.cut(reply.status(), reply.type(), reply.body());
        else exchange.send(reply);
    }

    private Reply reply(SimulatedJob job, Report reported) throws IOException {
        if (job.talk.isPresent()) return job.talk.get().reply();
        return job.question.map(asked -> asked.reply(reported)).orElseGet(() -> new Reply(200,
                behaviour.version().blockingType(), SimulatedJson.SPACED.json(reported.blocking())));
    }

    /// Nothing arrives any more, and the connection stays open. The server does not notice.
    private void freeze(SimulatedExchange exchange, SimulatedJob job) throws IOException {
        CompletableFuture.anyOf(job.reported, job.killed).join();
        if (!worker) markHeard(job);
        exchange.awaitLeave();
    }

    /// A stream of an app without a workflow. Whatever breaks it, the model goes on.
    private void converse(SimulatedExchange exchange, SimulatedJob job, SimulatedTalk talk)
            throws IOException, InterruptedException {
        var fault = job.fate.fault();
        if (fault == Fault.DROP_BEFORE) {
            pace.pause(talk.script.thinking().multipliedBy(job.fate.die() % 8).dividedBy(8));
            throw new IOException("dropped");
        }
        // a row that has not started cannot be killed
        if (fault == Fault.KILL) job.began.thenRun(() -> CompletableFuture.delayedExecutor(pace.millis(job.takes()
                .multipliedBy(1 + job.fate.die() % 3).dividedBy(4)), MILLISECONDS).execute(job::kill));
        talk.stream(exchange, job, pace);
    }

    private void kill(SimulatedJob job) throws IOException, InterruptedException {
        job.began.join();
        pace.pause(job.takes().dividedBy(3));
        if (!job.isInWorker()) job.kill();
        throw new IOException("the process that had this request is killed");
    }

    private void stream(SimulatedExchange exchange, SimulatedJob job) throws IOException, InterruptedException {
        int die = job.fate.die();
        var fault = job.fate.fault();
        if (fault == Fault.DROP_BEFORE && die % 2 == 0) throw new IOException("dropped");
        if (!worker && !fits(job.began.join().inputs())) {
            unencodable(exchange);
            return;
        }
        boolean isLater = behaviour.version().movesRuns();
        var out = exchange.stream(isLater);
        if (worker) out.write(PING);
        if (fault == Fault.DROP_BEFORE) {
            pace.pause(job.fate.queue().dividedBy(2));
            out.cut(PING);
        }
        var run = job.began.copy().completeOnTimeout(null, pace.millis(behaviour.silence()), MILLISECONDS).join();
        if (run == null) {
            out.end(); // it waited too long in the queue; it starts all the same
            return;
        }
        pace.pause(behaviour.version().opening());
        if (job.isPreset()) {
            for (var event : run.question().orElseThrow().preset(job.reported.join().run())) write(out, event);
            if (makesUpEnds) breakOff(out, job);
            else fallSilent(out);
            return;
        }
        var opening = job.opening(run);
        boolean isCut = fault == Fault.DROP_AFTER && die % 3 > 0;
        int last = isCut ? 1 + die / 3 % opening.size() : opening.size();
        for (var event : opening.subList(0, last)) write(out, event);
        if (isLater) {
            out.write(": a comment\n\n");
            for (var name : List.of("reasoning_chunk", "something_new")) write(out, object("event", name,
                    "workflow_run_id", run.id(), "task_id", run.task(), "data", object(
                            "reasoning", "Let me think.", "node_id", "llm", "is_final", true, "message_id", null)));
        }
        if (isCut) out.cut(line(run.textChunk("Answer", "llm", "text")));
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

    /// Drops what was not sent by now.
    private static void breakOff(Chunks out, SimulatedJob job) throws IOException {
        var end = MadeUp.of(job);
        if (job.isPreset() || !fits(job.opening(job.began.join()).getFirst())) out.write(line(end.started()));
        out.write(line(end.finished()));
        out.end();
    }

    /// A run without a request, which succeeded.
    private static SimulatedRun another(SimulatedJob job) {
        var question = job.question.map(asked -> SimulatedMessage.of(asked.app(), UUID.randomUUID().toString(), ""));
        return SimulatedRun.begin(job.version.app(), "", Map.of(), question, Instant.now()).end(
                new State.Succeeded(Map.of("answer", "of another run")), 1, Instant.now());
    }

    private void finish(Chunks out, SimulatedJob job) throws IOException, InterruptedException {
        var fault = job.fate.fault();
        var reported = awaitEnd(out, job, job.reported);
        if (reported.isEmpty()) {
            fallSilent(out);
            return;
        }
        var events = reported.get().closing();
        for (var event : events.subList(0, events.size() - 1)) write(out, event);
        if (job.isEndless()) awaitEnd(out, job, job.resumed);
        if (!worker) markHeard(job); // reached only while the client is there
        if (fault == Fault.DROP_AFTER) cutEnd(out, job, events.getLast(), reported.get().afterEnd());
        if (fault == Fault.ERROR_FIRST) out.write(line(anError(job)));
        if (fault == Fault.BROKEN || makesUpEnds && !fits(events.getLast())) breakOff(out, job);
        else if (fault == Fault.LOSE_FINISH || !fits(events.getLast())) fallSilent(out);
        else {
            out.write(line(events.getLast()));
            for (var event : reported.get().afterEnd().stream().toList()) out.write(line(event));
            pace.pause(reported.get().linger());
            out.end();
        }
    }

    /// Cuts within the last event of the run, or within what follows it.
    private static void cutEnd(Chunks out, SimulatedJob job, Map<String, Object> last,
            Optional<Map<String, Object>> after) throws IOException {
        var cut = after.filter(_ -> job.fate.die() / 3 % 2 == 0);
        if (cut.isPresent()) out.write(line(last));
        out.cut(line(cut.orElse(last)));
    }

    private void markHeard(SimulatedJob job) {
        if (job.question.isEmpty()) ledger.list(job);
        job.heard = true;
    }

    private static Map<String, Object> anError(SimulatedJob job) {
        var run = job.began.join();
        String code = "completion_request_error", message = "Completion request failed.";
        return job.question.map(asked -> asked.error(run, code, message)).orElseGet(() -> object("event", "error",
                "workflow_run_id", run.id(), "code", code, "status", 400, "message", message));
    }

    /// An event with an integer beyond 64 bits cannot be encoded, and is left out.
    private static void write(Chunks out, Map<String, Object> event) throws IOException {
        if (fits(event)) out.write(line(event));
    }

    private static boolean fits(Object value) {
        return switch (value) {
            case BigInteger number -> number.bitLength() < 64;
            case Map<?, ?> map -> map.values().stream().allMatch(SimulatedDify::fits);
            case Collection<?> list -> list.stream().allMatch(SimulatedDify::fits);
            case null, default -> true;
        };
    }

    /// 1.9.2 then abandons the whole stream and lets gunicorn report it; the run continues.
    private static void unencodable(SimulatedExchange exchange) throws IOException {
        exchange.without("X-Version", "X-Env").header("Connection", "close").send(500, "text/html",
                "<html>\n  <head>\n    <title>Internal Server Error</title>\n  </head>\n  <body>\n"
                        + "    <h1><p>Internal Server Error</p></h1>\n    \n  </body>\n</html>\n");
    }

    /// Sends pings meanwhile. Empty if the run's worker is killed before.
    private Optional<Report> awaitEnd(Chunks out, SimulatedJob job, CompletableFuture<Report> reported)
            throws IOException {
        while (!CompletableFuture.anyOf(reported, job.killed).thenApply(_ -> true)
                .completeOnTimeout(false, pace.millis(PING_PERIOD), MILLISECONDS).join()) out.write(PING);
        return Optional.ofNullable(reported.getNow(null));
    }

    private static String line(Map<String, Object> event) {
        return "data: " + SimulatedJson.COMPACT.json(event) + "\n\n";
    }

    // A run that waits for a person

    private SimulatedJob asking(String token) {
        return ledger.all().filter(job -> job.now().map(run -> run.state()
                        instanceof State.Paused || job.resumed.isDone()).orElse(false))
                .filter(job -> job.stored.join().reason().get("form_token").equals(token))
                .findFirst().orElseThrow(() -> refused(404, "not_found", "Form not found"));
    }

    private void question(SimulatedExchange exchange, String token) throws IOException {
        var run = asking(token).stored.join();
        var reason = run.reason();
        exchange.send(200, "application/json", SimulatedJson.SPACED.json(object(
                "form_content", reason.get("form_content"), "inputs", reason.get("inputs"),
                "resolved_default_values", Map.of(), "user_actions", reason.get("actions"),
                "expiration_time", reason.get("expiration_time"))));
    }

    private void answered(SimulatedExchange exchange, String token) throws IOException {
        var body = body(exchange);
        var job = asking(token);
        var reason = job.stored.join().reason();
        if (job.resumed.isDone()) throw refused(412, "human_input_form_submitted",
                "This form has already been submitted by another user, form_id=" + reason.get("form_id"));
        var action = Objects.toString(body.get("action"), "");
        var actions = ((List<?>) reason.get("actions")).stream().map(each -> ((Map<?, ?>) each).get("id")).toList();
        if (!actions.contains(action))
            throw refused(400, "invalid_form_data", "Invalid action: " + action);
        if (!(body.get("inputs") instanceof Map<?, ?> inputs) || !(inputs.get("note") instanceof String note))
            throw refused(400, "invalid_form_data", "Missing required inputs: note");
        job.resume(note);
        exchange.ok(Map.of());
    }

    // What is asked

    private void info(SimulatedExchange exchange, String id) throws IOException {
        exchange.ok(object("name", name, "description", "",
                "tags", List.of(), "mode", setup.kind().mode,
                "author_name", "simulator"));
    }

    private void parameters(SimulatedExchange exchange, String id) throws IOException {
        if (setup.kind() == Kind.UNPUBLISHED) throw unavailable();
        boolean chat = setup.kind().isPlain(), isAnswering = chat || setup.kind() == Kind.CHATFLOW;
        boolean isAgent = setup.kind() == Kind.AGENT, isUnset = chat && setup.traits().opening().isEmpty();
        var opening = setup.traits().opening().filter(_ -> chat && !isAgent);
        var off = object("enabled", false);
        var speech = object("enabled", false);
        if (!chat) speech.putAll(object("voice", "", "language", ""));
        var words = object("enabled", false);
        if (chat) words.putAll(worker && opening.isEmpty() ? object("type", "", "config", Map.of())
                : object("type", "", "configs", List.of()));
        var fields = isUnset ? List.of() : JSON.convertValue(current.fields(), Object.class);
        exchange.ok(object("opening_statement", setup.kind() == Kind.CHATFLOW ? "" : opening.orElse(null),
                "suggested_questions", opening.filter(text -> !text.isEmpty()).map(_ -> List.of("Why?"))
                        .orElse(List.of()), "suggested_questions_after_answer", off, "speech_to_text", off,
                "text_to_speech", speech, "retriever_resource", object("enabled", isAnswering),
                "annotation_reply", off, "more_like_this", off, "user_input_form", fields,
                "sensitive_word_avoidance", words, "file_upload", chat ? setup.traits().uploads(setup.kind()) : off,
                "system_parameters", object("image_file_size_limit", 10,
                        "video_file_size_limit", 100, "audio_file_size_limit", 50,
                        "file_size_limit", 15, "workflow_file_upload_limit", 10)));
    }

    private static Refused unavailable() {
        return refused(400, "app_unavailable", "App unavailable, please check your app configurations.");
    }

    private void upload(SimulatedExchange exchange, String id) throws IOException {
        exchange.send(files.upload(exchange.headers().getOrDefault("content-type", ""), exchange.body(), worker));
    }

    private void download(SimulatedExchange exchange, String id) throws IOException {
        exchange.send(200, "text/plain", SimulatedFiles.CONTENT);
    }

    private void detail(SimulatedExchange exchange, String id) throws IOException {
        if (setup.kind().isPlain()) throw refused(400, "not_workflow_app", WRONG_ROUTE);
        if (!SimulatedFiles.isUuid(id)) throw unknown();
        ledger.looks.incrementAndGet();
        var found = ledger.withRun(id).filter(job -> job.now().isPresent());
        if (found.isPresent()) exchange.ok(found.get().detail());
        else if (worker) throw refused(404, "not_found", "Workflow run not found.");
        else {
            var detail = SimulatedRun.begin(current.app(), "", Map.of(), Optional.empty(), Instant.EPOCH).detail();
            detail.replaceAll((_, _) -> null);
            exchange.ok(detail);
        }
    }

    private void logs(SimulatedExchange exchange, String id) throws IOException {
        ledger.looks.incrementAndGet();
        var model = worker ? "WorkflowLogQuery" : "";
        int limit = Math.min(largestPage, within(exchange, model, "limit", 20, 100));
        int page = within(exchange, model, "page", 1, 99_999);
        var wanted = wanted(exchange);
        var all = ledger.listed(exchange.query("created_by_end_user_session_id"))
                .filter(job -> job.now().filter(wanted).isPresent()).toList();
        exchange.ok(object("page", page, "limit", limit, "total", all.size(),
                "has_more", all.size() > (long) page * limit, "data",
                all.stream().skip((page - 1L) * limit).limit(limit).map(SimulatedJob::logRow).toList()));
    }

    /// The filters of the log but its user. Other parameters are ignored, as are empty ones.
    private Predicate<SimulatedRun> wanted(SimulatedExchange exchange) {
        var status = exchange.query("status");
        if (!List.of("", "succeeded", "failed", "stopped").contains(status)) throw worker
                ? mistake("WorkflowLogQuery", "status", "Input should be 'succeeded', 'failed' or 'stopped'",
                        "literal_error", "str")
                : mismatch("status", "The value '" + status + "' is not a valid choice for 'status'.");
        var from = time(exchange.query("created_at__after"), Instant.MIN);
        var to = time(exchange.query("created_at__before"), Instant.MAX);
        var keyword = exchange.query("keyword");
        return run -> (status.isEmpty() || run.state().stored().equals(status))
                && !run.listedAt().isBefore(from) && !run.listedAt().isAfter(to)
                && run.has(keyword.substring(0, Math.min(30, keyword.length())));
    }

    private static Instant time(String text, Instant otherwise) {
        try {
            return text.isEmpty() ? otherwise : Instant.parse(text);
        } catch (DateTimeParseException _) {
            throw refused(400, "invalid_param", "invalid literal for int() with base 10: b'"
                    + text.substring(0, Math.min(4, text.length())) + "'");
        }
    }

    private void conversations(SimulatedExchange exchange, String id) throws IOException, InterruptedException {
        checkChat();
        int limit = within(exchange, worker ? "ConversationListQuery" : "Number of conversations to return ", "limit",
                20, 100);
        var user = exchange.query("user");
        ledger.looks.incrementAndGet();
        conversations.meet(user, false);
        page(exchange, limit, conversations.of(user, exchange.query("sort_by"), exchange.query("last_id")));
    }

    private void messages(SimulatedExchange exchange, String id) throws IOException, InterruptedException {
        checkChat();
        int limit = within(exchange, worker ? "MessageListQuery" : "Number of messages to return ", "limit", 20, 100);
        var user = exchange.query("user");
        ledger.looks.incrementAndGet();
        conversations.meet(user, false);
        var messages = conversations.messages(user, exchange.query("conversation_id"));
        if (messages.isEmpty())
            throw noConversation("/v1/messages", "/v1/messages or /v1/chat-messages or /api/messages");
        torn.ifPresent(known -> messages.forEach(message -> tear(message, known)));
        page(exchange, limit, messages);
    }

    /// Dify commits between reading the answer and the tokens of a message. So does this one, once for each message.
    private void tear(Map<String, Object> message, Set<Object> torn) {
        boolean hasEnded = message.get("provider_response_latency") instanceof BigDecimal time && time.signum() > 0;
        if (setup.kind().isPlain() && hasEnded && torn.add(message.get("id"))) message.put("answer", "");
    }

    private void checkChat() {
        if (!setup.kind().isChat()) throw refused(400, "not_chat_app", WRONG_ROUTE);
    }

    private static void page(SimulatedExchange exchange, int limit, List<Map<String, Object>> all) throws IOException {
        exchange.ok(object("limit", limit, "has_more", all.size() > limit,
                "data", all.stream().limit(limit).toList()));
    }

    /// @param model the name of the query in the error, or the help of its field in that of 1.9.2
    private int within(SimulatedExchange exchange, String model, String name, int otherwise, int most) {
        var text = exchange.query(name);
        if (text.isEmpty()) return otherwise;
        int number = text.matches("\\d{1,6}") ? Integer.parseInt(text) : 0;
        if (number >= 1 && number <= most) return number;
        if (!worker) throw mismatch(name, model + "Invalid argument: " + number
                + ". argument must be within the range 1 - " + most);
        throw number < 1 ? mistake(model, name, "Input should be greater than or equal to 1",
                "greater_than_equal", "str") : mistake(model, name,
                "Input should be less than or equal to " + most, "less_than_equal", "str");
    }

    /// Any user stops a run, but only its own user a row without one. All get the same response.
    private void stop(SimulatedExchange exchange, String task) throws IOException {
        var user = user(body(exchange));
        boolean isCompletion = exchange.path().startsWith("/v1/completion-messages/");
        if (isCompletion && setup.kind() != Kind.COMPLETION) throw unavailable();
        if (exchange.path().startsWith("/v1/chat-messages/")) checkChat();
        ledger.stops.incrementAndGet();
        ledger.withTask(task).filter(job -> job.talk.isEmpty() || job.user.equals(user))
                .ifPresent(SimulatedJob::stop);
        exchange.ok(object("result", "success"));
    }

    /// The request's JSON, checked as Dify does on every POST: an object with a user.
    private static Map<?, ?> body(SimulatedExchange exchange) {
        if (!exchange.headers().getOrDefault("content-type", "").startsWith("application/json"))
            throw refused(415, "unsupported_media_type",
                    "Did not attempt to load JSON data because the request Content-Type was not "
                            + "'application/json'.");
        try {
            var value = JSON.readValue(exchange.body(), Object.class);
            if (!(value instanceof Map<?, ?> body)) throw unknown();
            if (user(body).codePointCount(0, user(body).length()) > 255) throw unknown();
            return body;
        } catch (IOException _) { // invalid JSON
            throw refused(400, "bad_request",
                    "The browser (or proxy) sent a request that this server could not understand.");
        }
    }

    /// Any value that is true in Python, as Python prints it.
    private static String user(Map<?, ?> body) {
        var given = body.get("user");
        boolean empty = given == null || given.equals(false) || given.equals(0) || given.equals("")
                || given instanceof Collection<?> list && list.isEmpty();
        if (empty) throw refused(400, "invalid_param", "Arg user must be provided.");
        var user = given instanceof String text ? text : SimulatedForm.python(given);
        if (user.indexOf('\0') >= 0) throw refused(400, "invalid_param",
                "A string literal cannot contain NUL (0x00) characters.");
        return user;
    }

    private static Refused unknown() {
        return refused(500, "unknown", "Internal Server Error");
    }

    private static Refused refused(int status, String code, String message) {
        return new Refused(Reply.error(status, code, message));
    }

    @FunctionalInterface
    interface Action {
        /// `id` is the variable part of the path, or empty.
        void answer(SimulatedExchange exchange, String id) throws IOException, InterruptedException;
    }

    /// The request before its fate is rolled. `version` is the id of one, or empty for the published one.
    record Asked(String row, String user, Map<?, ?> inputs, Optional<SimulatedMessage> question, boolean streaming,
                 String version) {
        /// Texts that can name a fate.
        private Map<?, ?> texts() {
            var texts = new LinkedHashMap<Object, Object>(inputs);
            question.ifPresent(asked -> texts.put("sys.query", asked.query()));
            return texts;
        }

        private Start start(Fate fate, Published published) {
            var asked = question.map(one -> one.moderated(fate.fault() == Fault.REPLACE));
            return new Start(row, user, inputs, asked, fate, streaming, published);
        }
    }

    record Route(SimulatedRoute part, String method, Pattern path, Action action) {
        Route(SimulatedRoute part, String method, String path, Action action) {
            this(part, method, Pattern.compile(path), action);
        }
    }
}
