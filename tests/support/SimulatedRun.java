package difyexec;

import picocli.CommandLine.TypeConversionException;

import module java.base;

import static difyexec.SimulatedJson.object;
import static java.nio.charset.StandardCharsets.UTF_8;

/// A run at one moment, and how the API shows it, field for field in Dify's order.
/// `changed` is when it reached its state; `question` is present in a chatflow.
record SimulatedRun(App app, String id, String task, String user, Map<String, Object> inputs,
                    Optional<SimulatedMessage> question, Instant created, State state, int tokens, Instant changed) {
    static final String VERSIONS = "1.19.0 (as 1.16.1), 1.16.1, 1.16.0, 1.14.2 or 1.9.2";

    static SimulatedRun begin(App app, String user, Map<String, Object> inputs, Optional<SimulatedMessage> question,
            Instant now) {
        return new SimulatedRun(app, UUID.randomUUID().toString(), UUID.randomUUID().toString(), user, inputs,
                question, now, new State.Running(), 0, now);
    }

    SimulatedRun end(State ending, int tokens, Instant now) {
        return new SimulatedRun(app, id, task, user, inputs, question, created, ending, tokens, now);
    }

    /// The body of a blocking answer.
    Map<String, Object> blocking() {
        var data = object("id", id, "workflow_id", app.workflow(), "status", reportedStatus(),
                "outputs", state.outputs(), "error", state.error(), "elapsed_time", seconds(created, changed),
                "total_tokens", tokens, "total_steps", state.steps(),
                "created_at", created.getEpochSecond(), "finished_at", finishedAt());
        if (state instanceof State.Paused(var node))
            data.putAll(object("paused_nodes", List.of(node), "reasons", List.of(reason())));
        return object("task_id", task, "workflow_run_id", id, "data", data);
    }

    /// The answer to a question by run id.
    Map<String, Object> detail() {
        var text = isOver() && state.outputs().isEmpty() ? null : SimulatedJson.SPACED.json(state.outputs());
        return object("id", id, "workflow_id", app.workflow(), "status", state.stored(),
                "inputs", SimulatedJson.SPACED.json(storedInputs()),
                "outputs", app.version().hasWorker() ? state.outputs() : text, "error", state.error(),
                "total_steps", state.steps(), "total_tokens", tokens, "created_at", created.getEpochSecond(),
                "finished_at", finishedAt(), "elapsed_time", storedTime());
    }

    Map<String, Object> logRow() {
        return object("id", idOf("log"),
                "workflow_run", object("id", id, "version", app.published(), "status", state.stored(),
                        "triggered_from", "app-run", "error", state.error(), "elapsed_time", storedTime(),
                        "total_tokens", tokens, "total_steps", state.steps(),
                        "created_at", created.getEpochSecond(), "finished_at", finishedAt(),
                        "exceptions_count", exceptions()),
                "details", null, "created_from", "service-api", "created_by_role", "end_user",
                "created_by_account", null,
                "created_by_end_user", object("id", uuid(user), "type", "service-api", "is_anonymous", false,
                        "session_id", user),
                "created_at", listedAt().getEpochSecond());
    }

    /// When the log got its row.
    Instant listedAt() {
        return app.version().hasWorker() ? created : changed;
    }

    /// Whether the log finds it by a text: in its inputs and outputs, its user or its id. Before 1.14, non-ASCII is
    /// looked for as it is stored.
    boolean has(String text) {
        var part = app.version().hasWorker() ? text : SimulatedJson.SPACED.json(text).replaceAll("^\"|\"$", "");
        return Stream.of(SimulatedJson.SPACED.json(storedInputs()), SimulatedJson.SPACED.json(state.outputs()),
                        user, id)
                .anyMatch(whole -> whole.toLowerCase(Locale.ROOT).contains(part.toLowerCase(Locale.ROOT)));
    }

    /// The events from the start to the model's call.
    List<Map<String, Object>> opening() {
        var data = object("id", id, "workflow_id", app.workflow(), "inputs", startInputs(),
                "created_at", created.getEpochSecond());
        if (app.version().hasWorker()) data.put("reason", "initial");
        var taken = app.version().hasWorker() ? inputs : nodeInputs();
        return List.of(event("workflow_started", data), nodeStarted("start"),
                nodeFinished("start", taken, Map.of(), taken, "succeeded", null, null), nodeStarted("llm"));
    }

    /// One piece of the answer, as the model streams it.
    Map<String, Object> textChunk(String text, String... from) {
        if (question.isPresent()) return question.get().piece(this, text, from);
        return event("text_chunk", object("text", text, "from_variable_selector", List.of(from)));
    }

    /// The events of a run that has paused or ended; the last one ends the stream.
    List<Map<String, Object>> closing() {
        return switch (state) {
            case State.Running _ -> throw new IllegalStateException("still running: " + id);
            case State.Succeeded(var outputs) -> answered(outputs, nodeFinished("llm", Map.of(),
                    object("model_mode", "chat", "model_provider", "demo", "model_name", "demo"),
                    object("text", outputs.get("answer"), "finish_reason", "stop"), "succeeded", null, cost()));
            case State.Partial(var outputs, var handled) -> answered(outputs, nodeFinished("llm", Map.of(),
                    Map.of(), object("text", outputs.get("answer"), "error_message", handled),
                    "exception", "Unknown error", object("error_strategy", "default-value")));
            case State.Failed(var error) -> List.of(
                    nodeFinished("llm", Map.of(), Map.of(), Map.of(), "failed", error, null), finished());
            case State.Stopped _ -> List.of(finished());
            case State.Paused(var node) -> List.of(nodeStarted(node), paused(node));
        };
    }

    private List<Map<String, Object>> answered(Map<String, Object> outputs, Map<String, Object> llmFinished) {
        var events = new ArrayList<Map<String, Object>>();
        for (var word : String.valueOf(outputs.get("answer")).split("(?<= )"))
            events.add(textChunk(word, "llm", "text"));
        if (question.isPresent()) {
            events.addAll(List.of(llmFinished, nodeStarted("answer"),
                    nodeFinished("answer", Map.of(), Map.of(), outputs, "succeeded", null, null), finished()));
            return List.copyOf(events);
        }
        events.add(textChunk("\n", "end", "answer"));
        events.add(textChunk(String.valueOf(outputs.get("row_id")), "start", "id"));
        events.add(llmFinished);
        events.add(nodeStarted("end"));
        events.add(nodeFinished("end", outputs, Map.of(), outputs, "succeeded", null, null));
        events.add(finished());
        return List.copyOf(events);
    }

    /// 1.50 USD for a million tokens.
    private Map<String, Object> cost() {
        var price = BigDecimal.valueOf(tokens * 15L, 7).toPlainString();
        return object("total_tokens", tokens, "total_price", price, "currency", "USD");
    }

    private Map<String, Object> finished() {
        return event("workflow_finished", object("id", id, "workflow_id", app.workflow(),
                "status", reportedStatus(), "outputs", state.outputs(), "error", state.error(),
                "elapsed_time", seconds(created, changed), "total_tokens", tokens, "total_steps", state.steps(),
                "created_by", object("id", uuid(user), "user", user), "created_at", created.getEpochSecond(),
                "finished_at", finishedAt(), "exceptions_count", exceptions(), "files", List.of()));
    }

    private Map<String, Object> paused(String node) {
        return event("workflow_paused", object("workflow_run_id", id, "paused_nodes", List.of(node),
                "outputs", Map.of(), "reasons", List.of(reason()), "status", "paused",
                "created_at", created.getEpochSecond(), "elapsed_time", seconds(created, changed),
                "total_tokens", tokens, "total_steps", state.steps()));
    }

    /// The form that a paused run waits for.
    Map<String, Object> reason() {
        var node = ((State.Paused) state).node();
        var reason = object("TYPE", "human_input_required", "form_id", idOf("form"));
        reason.putAll(SimulatedGraph.question(this));
        reason.putAll(object("node_id", node, "node_title", app.version().movesRuns() ? "Approve refund" : node,
                "resolved_default_values", Map.of(), "form_token", idOf("token"),
                "expiration_time", changed.getEpochSecond() + 3600));
        if (app.version().isFrom(Version.V1_16_0)) reason.put("approval_channels", List.of("console"));
        return reason;
    }

    private Map<String, Object> nodeStarted(String node) {
        return nodeStarted(node, state.equals(new State.Paused(node)) ? "human-input" : node);
    }

    Map<String, Object> nodeStarted(String node, String type) {
        var data = node(node, type);
        data.putAll(object("inputs", null, "inputs_truncated", false, "created_at", created.getEpochSecond(),
                "extras", Map.of(), "iteration_id", null, "loop_id", null, "agent_strategy", null));
        return event("node_started", data);
    }

    private Map<String, Object> nodeFinished(String node, Map<String, Object> inputs,
            Map<String, Object> process, Map<String, Object> outputs, String status, String error,
            Map<String, Object> metadata) {
        return nodeFinished(node, node, inputs, process, outputs, status, error, metadata);
    }

    Map<String, Object> nodeFinished(String node, String type, Map<String, Object> inputs,
            Map<String, Object> process, Map<String, Object> outputs, String status, String error,
            Map<String, Object> metadata) {
        var data = node(node, type);
        data.putAll(object("inputs", inputs, "inputs_truncated", false,
                "process_data", process, "process_data_truncated", false,
                "outputs", outputs, "outputs_truncated", false, "status", status, "error", error,
                "elapsed_time", seconds(node.equals("llm") ? created : changed, changed),
                "execution_metadata", metadata, "created_at", created.getEpochSecond(),
                "finished_at", changed.getEpochSecond(), "files", SimulatedFiles.among(outputs),
                "iteration_id", null, "loop_id", null));
        return event("node_finished", data);
    }

    private Map<String, Object> node(String node, String type) {
        return object("id", idOf(node), "node_id", node, "node_type", type, "title", node, "index", 1,
                "predecessor_node_id", null);
    }

    Map<String, Object> event(String name, Map<String, Object> data) {
        if (question.isPresent()) return question.get().event(name, this, data);
        return object("event", name, "workflow_run_id", id, "task_id", task, "data", data);
    }

    private Map<String, Object> startInputs() {
        var all = new LinkedHashMap<>(inputs);
        all.putAll(object("sys.files", List.of(), "sys.user_id", user, "sys.app_id", app.id(),
                "sys.workflow_id", app.workflow(), "sys.workflow_run_id", id));
        question.ifPresent(asked -> all.putAll(object("sys.query", asked.query(), "sys.dialogue_count",
                asked.dialogue())));
        return all;
    }

    /// The start's inputs with their time, whose place depends on the version; a chatflow has none.
    private Map<String, Object> storedInputs() {
        var all = startInputs();
        if (question.isPresent()) return all;
        all.put("sys.timestamp", created.getEpochSecond());
        if (app.version().hasWorker())
            List.of("sys.workflow_id", "sys.workflow_run_id").forEach(name -> all.put(name, all.remove(name)));
        return all;
    }

    /// As the Start node of 1.9.2 has them.
    private Map<String, Object> nodeInputs() {
        var all = storedInputs();
        question.ifPresent(asked -> all.put("sys.conversation_id", asked.conversation()));
        return all;
    }

    /// A stopped run is stored as stopped; before 1.16.0 its own answer says that it failed.
    private String reportedStatus() {
        boolean isHidden = state instanceof State.Stopped && !app.version().isFrom(Version.V1_16_0);
        return isHidden ? "failed" : state.stored();
    }

    private boolean isOver() {
        return !(state instanceof State.Running || state instanceof State.Paused);
    }

    private Long finishedAt() {
        return isOver() ? changed.getEpochSecond() : null;
    }

    private BigDecimal storedTime() {
        return isOver() ? seconds(created, changed) : seconds(created, created);
    }

    private int exceptions() {
        return state instanceof State.Failed || state instanceof State.Partial ? 1 : 0;
    }

    /// A stable id for each part of this run.
    private String idOf(String thing) {
        return uuid(id + thing);
    }

    /// How long it took.
    BigDecimal seconds() {
        return seconds(created, changed);
    }

    /// To the microsecond, written as Python does: `0.0`, `1.25`.
    private static BigDecimal seconds(Instant from, Instant to) {
        var seconds = BigDecimal.valueOf(Duration.between(from, to).toNanos() / 1000, 6).stripTrailingZeros();
        return seconds.scale() < 1 ? seconds.setScale(1) : seconds;
    }

    private static String uuid(String name) {
        return UUID.nameUUIDFromBytes(name.getBytes(UTF_8)).toString();
    }

    /// The state of a run.
    sealed interface State {
        record Running() implements State {}
        record Succeeded(Map<String, Object> outputs) implements State {}
        /// A node failed with the error `handled`, and a default value replaced its output.
        record Partial(Map<String, Object> outputs, String handled) implements State {}
        record Failed(String error) implements State {}
        /// Ended through the stop route, or out of time. A chatflow had `said` so much of its answer.
        record Stopped(String said) implements State {
            Stopped() {
                this("");
            }
        }
        /// Waits for a person at the Human Input node of this name, as in 1.14.2.
        record Paused(String node) implements State {}

        default String stored() {
            return switch (this) {
                case Running _ -> "running";
                case Succeeded _ -> "succeeded";
                case Partial _ -> "partial-succeeded";
                case Failed _ -> "failed";
                case Stopped _ -> "stopped";
                case Paused _ -> "paused";
            };
        }

        default Map<String, Object> outputs() {
            return switch (this) {
                case Succeeded(var outputs) -> outputs;
                case Partial(var outputs, _) -> outputs;
                case Running _, Failed _, Stopped _, Paused _ -> Map.of();
            };
        }

        /// The error in the API, or null if there is none.
        default String error() {
            return switch (this) {
                case Failed(var error) -> error;
                case Stopped _ -> "Aborted: User requested stop";
                case Running _, Succeeded _, Partial _, Paused _ -> null;
            };
        }

        default int steps() {
            return switch (this) {
                case Running _ -> 0;
                case Failed _, Stopped _ -> 2;
                case Succeeded _, Partial _, Paused _ -> 3;
            };
        }
    }

    /// The supported versions of Dify, oldest first. The last was never recorded: it behaves like the one before, with
    /// what public branches of August to October 2026 show.
    enum Version {
        V1_9_2("1.9.2"), V1_14_2("1.14.2"), V1_16_0("1.16.0"), V1_16_1("1.16.1"), V1_19_0("1.19.0");

        final String number;

        Version(String number) {
            this.number = number;
        }

        static Version of(String number) {
            return Stream.of(values()).filter(version -> version.number.equals(number)).findFirst()
                    .orElseThrow(() -> new TypeConversionException("'" + number + "' is not " + VERSIONS));
        }

        boolean isFrom(Version first) {
            return compareTo(first) >= 0;
        }

        /// Streams run in a worker: a ping at once; log rows from the start; outputs as an object; 404 for no run.
        boolean hasWorker() {
            return isFrom(V1_14_2);
        }

        /// Whether a run moves to another worker when its own is replaced, as public branches show.
        boolean movesRuns() {
            return isFrom(V1_19_0);
        }

        String blockingType() {
            return hasWorker() ? "application/json; charset=utf-8" : "application/json";
        }

        /// The wait before a stream's first event.
        Duration opening() {
            return Duration.ofMillis(hasWorker() ? 25 : 10);
        }

        /// How long a stream stays open after its last event.
        Duration linger() {
            return this == V1_14_2 ? Duration.ofSeconds(1) : Duration.ZERO;
        }
    }

    /// The one app of a server: its id, the id of its published version, and when that was published.
    record App(Version version, String id, String workflow, String published) {
        static App of(Version version, String workflow) {
            return new App(version, uuid("app"), workflow, "2026-01-01 00:00:00.000000");
        }
    }
}
