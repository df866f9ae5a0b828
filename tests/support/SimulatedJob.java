package difyexec;

import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.node.*;
import difyexec.SimulatedGraph.Course;
import difyexec.SimulatedRun.*;
import difyexec.Simulator.*;
import difyexec.Simulator.Pace;

import module java.base;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.stream.Collectors.joining;

/// One run from its request on. Its own answer and its stored record can differ, also in time.
final class SimulatedJob {
    private static final Map<String, Object> BY_LISTENER = Map.of("status", "stopped", "error", "Stopped by user.");
    private static final Map<String, Object> FALSELY = Map.of("status", "failed", "outputs", Map.of(),
            "error", "[openai] Rate Limit Error, 429 Too Many Requests");
    private static final String OF_TASK = "Aborted: App task was stopped";

    /// Reasons that end a run early.
    private enum Halt { NONE, STOP, WORKER_ENDED, WORKER_KILLED }

    final String row, user;
    final Map<?, ?> given;
    final boolean streaming;
    final Fate fate;
    final Published version;
    /// Present in an app that is not a workflow.
    final Optional<SimulatedMessage> question;
    /// Present in an app without a workflow.
    final Optional<SimulatedTalk> talk;
    final Instant taken = Instant.now();
    final boolean twice;
    /// The run as it started, and as it is stored and reported at its end.
    final CompletableFuture<SimulatedRun> began = new CompletableFuture<>();
    final CompletableFuture<SimulatedRun> stored = new CompletableFuture<>();
    final CompletableFuture<Report> reported = new CompletableFuture<>();
    /// The report of a run that was paused and continues.
    final CompletableFuture<Report> resumed = new CompletableFuture<>();
    /// Its worker is gone: nothing more is stored or reported.
    final CompletableFuture<Void> killed = new CompletableFuture<>();
    /// Whether the client of a 1.9.2 stream was there to the end.
    volatile boolean heard;
    private final CompletableFuture<Halt> halt = new CompletableFuture<>();
    private final Pace pace;
    /// The graph that this run takes, if it is not the model's alone.
    private final Optional<SimulatedGraph> graph;
    /// Stored values that differ from its state.
    private volatile Map<String, Object> corrections = Map.of();
    /// The end of a run that was paused, and the text entered into its form.
    private volatile SimulatedRun again;
    private volatile String note;

    /// The reported end of a run; `corrections` replace values of its last event.
    record Report(SimulatedRun run, Optional<Course> course, Map<String, Object> corrections) {
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

        private Map<?, ?> data() {
            return (Map<?, ?>) last().get("data");
        }

        String status() {
            return (String) data().get("status");
        }

        String error() {
            return (String) data().get("error");
        }

        /// The answer of a chatflow, or empty if there is none.
        String answer() {
            if (run.question().filter(SimulatedMessage::isReplaced).isPresent() && isAnswered())
                return SimulatedMessage.PRESET;
            if (status().equals("paused")) return SimulatedGraph.FIRST_PART;
            if (run.state() instanceof State.Stopped(var said)) return said;
            return data().get("outputs") instanceof Map<?, ?> outputs
                    ? Objects.toString(outputs.get("answer"), "") : "";
        }

        private boolean isAnswered() {
            return List.of("succeeded", "partial-succeeded").contains(status());
        }

        /// The last event of the run, which ends the stream.
        Map<String, Object> last() {
            var files = SimulatedFiles.among(run.state().outputs());
            var event = corrected(run.closing().getLast(), "data", corrections);
            return files.isEmpty() ? event : corrected(event, "data", Map.of("files", files));
        }

        /// The events at the end.
        List<Map<String, Object>> closing() {
            var own = run.closing();
            var events = new ArrayList<>(course.map(Course::closing).orElse(own.subList(0, own.size() - 1)));
            if (isAnswered()) run.question().ifPresent(asked -> {
                if (asked.isReplaced()) events.add(asked.replaced(run));
                if (run.app().version().hasWorker()) events.add(asked.end(run));
            });
            events.add(last());
            return events;
        }

        /// The event of 1.9.2 in a chatflow after the end of the run.
        Optional<Map<String, Object>> afterEnd() {
            if (run.app().version().hasWorker()) return Optional.empty();
            return run.question().map(asked -> status().equals("failed")
                    ? asked.error(run, "invalid_param", SimulatedMessage.failure(this)) : asked.end(run));
        }

        /// How long the stream stays open; a chatflow's only if it was answered.
        Duration linger() {
            return run.question().isEmpty() || isAnswered() || status().equals("paused")
                    ? run.app().version().linger() : Duration.ZERO;
        }
    }

    SimulatedJob(String row, Start start, boolean twice, Pace pace) {
        this.row = row;
        this.user = start.user();
        this.given = start.inputs();
        this.streaming = start.streaming();
        this.fate = start.fate();
        this.version = start.version();
        this.question = start.question();
        this.talk = start.talk();
        this.twice = twice;
        this.pace = pace;
        this.graph = fate.fault() == Fault.PAUSE ? Optional.of(SimulatedGraph.asking(question.isPresent()))
                : version.graph();
    }

    boolean isFrom(Version first) {
        return version.app().version().isFrom(first);
    }

    boolean hasWorker() {
        return isFrom(Version.V1_14_2);
    }

    boolean isInWorker() {
        return streaming && hasWorker() && talk.isEmpty();
    }

    /// Its message in the API.
    Map<String, Object> message() {
        return talk.map(talk -> talk.row(began.join()))
                .orElseGet(() -> question.orElseThrow().row(began.join(), written(), waited()));
    }

    /// The conversation that it starts.
    Map<String, Object> conversation(Instant updated) {
        return question.orElseThrow().conversation(began.join(), updated,
                talk.map(talk -> talk.introduction(began.join())).orElse(""));
    }

    /// Waits as long as its fate or its graph says, unless it is halted before; runs on its own thread.
    void run(Map<String, Object> inputs, Runnable onBegin, Runnable onEnd) throws InterruptedException {
        pace.pause(fate.queue());
        var run = SimulatedRun.begin(version.app(), user, inputs, question, Instant.now());
        talk.ifPresent(talk -> talk.begin(run));
        began.complete(run);
        onBegin.run();
        if (talk.isPresent()) {
            converse(run, talk.get());
            return;
        }
        if (isPreset()) {
            var ended = run.end(new State.Succeeded(SimulatedJson.object("answer",
                    SimulatedMessage.PRESET, "files", List.of())), 0, Instant.now());
            stored.complete(ended);
            reported.complete(halted(ended, Map.of()));
            return;
        }
        if (!isInWorker() && (fate.fault() == Fault.NEVER || fate.fault() == Fault.KILL)) return;
        if (fate.fault() == Fault.NEVER) killWorker();
        if (fate.fault() == Fault.WORKER_ENDED) haltAfter(Halt.WORKER_ENDED, takes().dividedBy(2));
        switch (haltAfter(Halt.NONE, takes()).join()) {
            case NONE -> end(run, inputs, onEnd);
            case STOP -> stop(run, onEnd);
            case WORKER_ENDED -> shutDown(run, onEnd);
            case WORKER_KILLED -> killed.complete(null);
        }
    }

    /// The course of a row in an app without a workflow. Its process is not a worker, and its ending is what the ledger
    /// counts: whether the model has answered to the end, not whether the answer is stored.
    private void converse(SimulatedRun run, SimulatedTalk talk) throws InterruptedException {
        if (fate.fault() == Fault.NEVER) return;
        boolean isOutOfTime = fate.fault() == Fault.STOPPED || fate.fault() == Fault.TIME_LIMIT;
        var left = isOutOfTime ? takes().dividedBy(2) : version.traits().longest();
        for (var step : talk.script.steps()) {
            if (isHalted(step.after(), left, run, talk)) return;
            left = left.minus(step.after());
            talk.say(step);
        }
        boolean isKilled = fate.fault() == Fault.KILL; // a kill that is late on a busy machine still finds it running
        if (isHalted(isKilled ? left : talk.script.rest(), left, run, talk)) return;
        var answer = talk.script.failure().<State>map(failure -> new State.Failed(failure.stored()))
                .orElse(new State.Succeeded(Map.of()));
        var ended = run.end(answer, talk.script.usage().total(), Instant.now());
        stored.complete(ended);
        talk.end(ended);
        reported.complete(new Report(ended, Optional.empty(), Map.of()));
    }

    /// Waits that long. Returns whether the row has ended meanwhile, at the latest when no time is left.
    private boolean isHalted(Duration time, Duration left, SimulatedRun run, SimulatedTalk talk)
            throws InterruptedException {
        boolean isTooLong = time.compareTo(left) > 0;
        try {
            switch (halt.get(pace.millis(isTooLong ? left : time), MILLISECONDS)) {
                case STOP -> {
                    pace.pause(SimulatedTalk.STOP_PERIOD);
                    stop(run, talk);
                    return true;
                }
                case WORKER_KILLED -> {
                    talk.die();
                    killed.complete(null);
                    return true;
                }
                case NONE, WORKER_ENDED -> {}
            }
        } catch (ExecutionException | TimeoutException _) {
            if (isTooLong) stop(run, talk);
            return isTooLong;
        }
        return false;
    }

    private void stop(SimulatedRun run, SimulatedTalk talk) {
        var ended = run.end(new State.Stopped(), 0, Instant.now());
        stored.complete(ended);
        talk.stop(ended);
        reported.complete(new Report(ended, Optional.empty(), Map.of()));
    }

    private CompletableFuture<Halt> haltAfter(Halt what, Duration time) {
        return halt.completeOnTimeout(what, pace.millis(time), MILLISECONDS);
    }

    /// How long it takes from its start.
    Duration takes() {
        if (talk.isPresent()) return talk.get().script.total();
        return version.graph().map(graph -> graph.takes(began.join().inputs())).orElse(fate.latency())
                .plus(fate.move());
    }

    /// How long it has moved to another worker, which it does when half of its work is done.
    private double moved() {
        var moving = Duration.between(taken.plus(fate.queue()).plus(fate.latency().dividedBy(2)), Instant.now());
        return Math.clamp(moving.toMillis() / 1000.0, 0, fate.move().toMillis() / 1000.0);
    }

    private Optional<Course> course(SimulatedRun run) {
        return graph.map(known -> known.course(run));
    }

    List<Map<String, Object>> opening(SimulatedRun run) {
        return course(run).map(Course::opening).orElseGet(run::opening);
    }

    private void end(SimulatedRun run, Map<String, Object> inputs, Runnable onEnd) throws InterruptedException {
        var text = question.map(SimulatedMessage::query).orElseGet(() -> inputs.values().stream().skip(1)
                .map(value -> value instanceof String words ? words : SimulatedJson.SPACED.json(value))
                .collect(joining(" ")));
        var outputs = SimulatedJson.object("answer", "Answer to: " + text);
        var files = version.form().files().output(run.id(), hasWorker());
        outputs.putAll(question.isPresent() ? Map.of("files", files)
                : SimulatedJson.object("row_id", inputs.get("id"), "text", text));
        if (question.isEmpty() && !files.isEmpty()) outputs.put("files", files);
        if (question.isEmpty() && version.form().files().hasScores()) outputs.put("score", text.length());
        switch (fate.fault()) {
            case EMPTY_OUTPUT -> outputs.put("answer", "");
            case NO_OUTPUT -> outputs.remove("score");
            case WRONG_OUTPUT -> outputs.put("score", "about " + text.length());
            default -> {}
        }
        int tokens = 16 + text.length() / 3;
        var course = course(run);
        if (fate.fault() == Fault.FALSE_FAIL) {
            reported.complete(halted(run.end(new State.Stopped(), 0, Instant.now()), FALSELY));
            pace.pause(takes());
        }
        if (fate.fault() == Fault.STEP_LIMIT || fate.fault() == Fault.TIME_LIMIT) {
            abort(run, course, onEnd);
            return;
        }
        if (fate.fault() == Fault.STOPPED && giveUp(run, (String) outputs.get("answer"), onEnd)) return;
        var state = version.form().mismatch(inputs).<State>map(State.Failed::new)
                .orElseGet(() -> switch (fate.fault()) {
                    case FAIL -> new State.Failed("Run failed: the model refused this input");
                    case FLAKY -> new State.Failed("[openai] Rate Limit Error, 429 Too Many Requests");
                    case PARTIAL -> new State.Partial(outputs,
                            "Reached maximum retries for URL http://x/");
                    default -> course.map(Course::ending)
                            .orElse(new State.Succeeded(outputs));
                });
        var ended = run.end(state, state instanceof State.Failed || course.isPresent() ? 0 : tokens, Instant.now());
        if (fate.fault() != Fault.UNRECORDED) stored.complete(ended);
        if (!isEndless()) onEnd.run(); // before anyone can see that the run is over
        reported.complete(new Report(ended, course, Map.of()));
        if (fate.fault() != Fault.PAUSE) return;
        pace.pause(takes());
        resume(text);
    }

    /// Moderation of a chatflow's input answers alone, without a run.
    boolean isPreset() {
        return talk.isEmpty() && fate.fault() == Fault.PRESET;
    }

    /// Paused in 1.9.2, which cannot resume.
    boolean isEndless() {
        return !hasWorker() && status().equals("paused");
    }

    /// Stored as stopped, reported as failed, and with the outputs if the End node was reached.
    private void abort(SimulatedRun run, Optional<Course> course, Runnable onEnd) {
        boolean early = fate.fault() == Fault.TIME_LIMIT && !hasWorker();
        var closing = course.map(Course::closing).orElse(List.of());
        var seen = course.map(whole -> new Course(whole.opening(),
                early ? closing.subList(0, closing.size() - 2) : closing, whole.ending()));
        var outputs = course.filter(_ -> !early).map(whole -> whole.ending().outputs()).orElse(Map.of());
        var ended = store(run, "Aborted: Maximum execution " + (fate.fault() == Fault.STEP_LIMIT
                ? "steps exceeded: 3 > 2" : "time exceeded: 2.53s > 1s"), outputs, onEnd);
        reported.complete(new Report(ended, seen, corrections));
    }

    /// The listener reports that its time is over; the run continues. Returns true if 1.16.0 aborts it. A blocking
    /// chatflow responds with the answer so far, like a success.
    private boolean giveUp(SimulatedRun run, String answer, Runnable onEnd) throws InterruptedException {
        var said = streaming ? "" : answer.substring(0, answer.length() / 2);
        reported.complete(halted(run.end(new State.Stopped(said), 0, Instant.now()), BY_LISTENER));
        boolean isAborted = isFrom(Version.V1_16_0);
        pace.pause(isAborted ? Duration.ofMillis(500) : takes());
        if (isAborted) store(run, "Aborted: App execution exceeded 2 seconds", Map.of(), onEnd);
        return isAborted;
    }

    /// 1.16.0 aborts active runs when its worker is asked to shut down.
    private void shutDown(SimulatedRun run, Runnable onEnd) throws InterruptedException {
        pace.pause(Duration.ofMillis(200));
        var ended = store(run, "Aborted: Workflow stopped because the worker is shutting down.", Map.of(), onEnd);
        reported.complete(halted(ended, corrections));
    }

    /// Stored as stopped, with its own message.
    private SimulatedRun store(SimulatedRun run, String error, Map<String, Object> outputs, Runnable onEnd) {
        var ended = run.end(new State.Stopped(), 0, Instant.now());
        corrections = SimulatedJson.object("outputs", outputs, "error", error);
        stored.complete(ended);
        onEnd.run();
        return ended;
    }

    /// Reported without the steps that were still to come.
    private Report halted(SimulatedRun ended, Map<String, Object> corrections) {
        return new Report(ended, graph.map(_ -> new Course(List.of(), List.of(), null)), corrections);
    }

    /// What a chatflow's message contains of the form that its run waited for.
    List<Map<String, Object>> waited() {
        boolean hasPaused = stored.isDone() && stored.join().state() instanceof State.Paused;
        if (question.isEmpty() || !hasPaused) return List.of();
        var form = stored.join().reason();
        List.of("TYPE", "approval_channels").forEach(form::remove);
        form.put("display_in_ui", true);
        if (note != null) form.put("form_token", null);
        var sent = note == null ? null : SimulatedGraph.filled(stored.join(), note);
        return List.of(SimulatedJson.object("workflow_run_id", stored.join().id(), "submitted", note != null,
                "form_definition", form, "form_submission_data", sent, "type", "human_input"));
    }

    /// A person has answered: the run continues to its end.
    void resume(String note) {
        this.note = note;
        var run = began.join();
        var course = graph.orElseThrow().resumed(run, note);
        boolean isCut = question.isEmpty() || !streaming; // someone reads a chatflow's stream
        if (version.app().version() == Version.V1_16_0 && isCut) {
            breakOff(run, course);
            return;
        }
        var ended = run.end(course.ending(), 0, Instant.now());
        again = ended;
        resumed.complete(new Report(ended, Optional.of(course), Map.of()));
    }

    /// 1.16.0 ends it at once, at any step, with or without outputs.
    private void breakOff(SimulatedRun run, Course course) {
        var outputs = streaming ? course.ending().outputs() : question.isEmpty() ? Map.of() : Map.of("answer",
                SimulatedGraph.FIRST_PART, "files", Map.of("value_type", "array[file]", "value", List.of()));
        corrections = SimulatedJson.object("outputs", outputs, "error",
                "Aborted: Client response stream closed before app execution completed");
        again = run.end(new State.Stopped(), 0, Instant.now());
        var head = course.closing().subList(0, 1);
        resumed.complete(new Report(again, Optional.of(new Course(List.of(), head, null)), BY_LISTENER));
    }

    Map<String, Object> detail() {
        var detail = now().orElseThrow().detail();
        if (version.app().version().movesRuns()) detail.put("handoff_duration", moved());
        if (isEndless()) detail.put("outputs", null);
        if (corrections.isEmpty()) return detail;
        var outputs = (Map<?, ?>) corrections.get("outputs");
        detail.put("error", corrections.get("error"));
        detail.put("outputs", hasWorker() ? outputs : outputs.isEmpty() ? null : SimulatedJson.SPACED.json(outputs));
        return detail;
    }

    Map<String, Object> logRow() {
        var row = now().orElseThrow().logRow();
        return corrections.isEmpty() ? row
                : Report.corrected(row, "workflow_run", Map.of("error", corrections.get("error")));
    }

    /// Engine and listener race for it (20 stops on each server): the engine wins four of five. 1.9.2 sometimes
    /// reports it before it is stored, and so does 1.16.0 if the listener wins; then the stored message differs. In a
    /// chatflow the listener wins, and it is stored seconds later, by 1.9.2 never.
    private void stop(SimulatedRun run, Runnable onEnd) throws InterruptedException {
        pace.pause(Duration.ofMillis(25 + fate.die() % 200));
        var ended = run.end(new State.Stopped(), 0, Instant.now());
        boolean byListener = !isFrom(Version.V1_16_1) && (question.isPresent() || fate.die() % 5 == 0);
        boolean newly = byListener && isFrom(Version.V1_16_0);
        var reported = halted(ended, byListener ? BY_LISTENER : Map.of());
        if (byListener && question.isPresent() || newly || !hasWorker() && fate.die() % 7 == 0) {
            this.reported.complete(reported);
            if (question.isPresent() && !hasWorker()) return;
            pace.pause(question.isPresent() ? Duration.ofSeconds(2) : Duration.ofMillis(300));
        }
        if (newly) corrections = Map.of("outputs", Map.of(), "error", OF_TASK);
        stored.complete(ended);
        onEnd.run();
        this.reported.complete(reported);
    }

    /// Its end, if that is written into the message of a chatflow. Whatever reports a run also writes it: in 1.9.2 the
    /// stream, as long as its client is there. A stream that breaks in the middle never does.
    Optional<Report> written() {
        boolean isRead = hasWorker() || !streaming || heard;
        if (!isRead || fate.fault() == Fault.BROKEN_RUNNING) return Optional.empty();
        return resumed.isDone() ? Optional.of(rewritten(resumed.join()))
                : Optional.ofNullable(reported.getNow(null)).filter(end -> streaming || !end.status().equals("paused"));
    }

    /// After a pause the message is written again, in a way that depends on the version.
    private Report rewritten(Report end) {
        String first = SimulatedGraph.FIRST_PART, whole = end.answer();
        var answer = switch (version.app().version()) {
            case V1_9_2 -> whole;
            case V1_14_2 -> streaming ? first + first : first;
            case V1_16_0 -> streaming ? whole : "";
            case V1_16_1, V1_19_0 -> streaming ? whole : whole.substring(first.length());
        };
        return new Report(end.run(), end.course(), Map.of("status", "succeeded", "outputs", Map.of("answer", answer)));
    }

    void stop() {
        halt.complete(Halt.STOP);
    }

    /// Ends it as it would have ended later.
    void finish() {
        halt.complete(Halt.NONE);
    }

    /// Asks its worker to shut down; before 1.16.0 it finishes its active runs first.
    void endWorker() {
        if (isInWorker() && isFrom(Version.V1_16_0) && began.isDone()) halt.complete(Halt.WORKER_ENDED);
    }

    void killWorker() {
        if (isInWorker() && began.isDone()) halt.complete(Halt.WORKER_KILLED);
    }

    /// Kills the API, unless a worker runs it.
    void killApi() {
        if (!isInWorker()) kill();
    }

    /// Kills the process that runs it, the API or the worker.
    void kill() {
        if (began.isDone()) halt.complete(Halt.WORKER_KILLED);
    }

    /// The run in detail and log; empty while it waits in the queue.
    Optional<SimulatedRun> now() {
        return Optional.ofNullable(again).or(() -> Optional.ofNullable(stored.getNow(began.getNow(null))));
    }

    String status() {
        return now().map(run -> run.state().stored()).orElse("queued");
    }

    /// Whether it succeeded or still may.
    boolean isPaid() {
        return switch (status()) {
            case "failed", "stopped" -> false;
            default -> true;
        };
    }

    /// A published version of the workflow: the form and the graph. Without a graph it answers with its
    /// texts.
    record Published(App app, JsonNode fields, SimulatedForm form, Optional<SimulatedGraph> graph,
                     Setup.Traits traits) {
        /// The form of a workflow with only text variables.
        static ArrayNode texts(List<String> columns) {
            var fields = new ObjectMapper().createArrayNode();
            for (var column : columns) fields.addObject().putObject("paragraph").put("label", column)
                    .putNull("max_length").put("required", false).put("type", "paragraph").put("variable", column)
                    .putArray("options");
            return fields;
        }

        /// An app without a workflow does not use the defaults of its variables.
        static Published of(Version version, JsonNode fields, Setup setup, Optional<SimulatedGraph> graph,
                SimulatedFiles files) {
            var used = fields.deepCopy();
            if (setup.kind().isPlain()) used.findParents("default").forEach(field -> ((ObjectNode) field)
                    .remove("default"));
            var form = SimulatedForm.of(used, version.hasWorker(), files);
            var app = App.of(version, UUID.randomUUID().toString());
            return new Published(app, fields, form, graph, setup.traits());
        }

        /// What the model is asked if there is no question: the texts of the variables, except the row's id.
        private String prompt(Map<?, ?> inputs) {
            return form.variables().stream().map(SimulatedForm.Variable::name).filter(name -> !name.equals("id"))
                    .map(inputs::get).filter(Objects::nonNull).map(Object::toString).collect(joining(" "));
        }
    }

    /// A request that is about to start a run.
    record Start(String row, String user, Map<?, ?> inputs, Optional<SimulatedMessage> question, Fate fate,
                 boolean streaming, Published version) {
        private Optional<SimulatedTalk> talk() {
            return question.filter(asked -> asked.app().isPlain()).map(asked -> new SimulatedTalk(asked,
                    version.traits(), streaming, SimulatedModel.script(asked.app(), version.app().version(),
                            asked.query().isEmpty() ? version.prompt(inputs) : asked.query(), fate, version.traits())));
        }

        /// The connection breaks before the server of a chat has made its end user.
        boolean isCutAtOnce() {
            return question.isPresent() && fate.fault() == Fault.DROP_BEFORE && fate.die() % 2 == 0;
        }
    }

    /// 1.16.0 adds this to a stream without an end: a start, if that is missing too, and a failed end.
    record MadeUp(String task, String run, Published version, Map<?, ?> given, String error) {
        static final String NO_END = "Workflow stream ended without a terminal event";

        /// For a run that never existed.
        static MadeUp of(Start start, String error) {
            var id = UUID.randomUUID().toString();
            return new MadeUp(id, id, start.version(), start.inputs(), error);
        }

        static MadeUp of(SimulatedJob job) {
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
            var data = SimulatedJson.object("id", run, "workflow_id", version.app().workflow());
            data.putAll(SimulatedJson.object(more));
            return SimulatedJson.object("event", name, "task_id", task, "workflow_run_id", run, "data", data);
        }
    }
}
