package difyexec;

import difyexec.Simulator.Setup.Kind;

import module java.base;

import static difyexec.SimulatedJson.object;

/// A question to an app that is not a workflow. This class shows that of a chatflow and its answer, field for field in
/// Dify's order: its run is like that of a workflow, only its events have more fields in front. [SimulatedTalk] shows
/// those of the other apps.
///
/// @param id           also that of the answer: question and answer are one message
/// @param conversation empty in a completion app
/// @param dialogue     its place in its conversation, from 1
/// @param isNamed      whether the model is asked for a name of the conversation
/// @param files        the files beside the question
/// @param isReplaced   moderation replaces its answer with [#PRESET]; a run keeps its own
record SimulatedMessage(Kind app, String id, String conversation, String query, int dialogue, boolean isNamed,
                        List<Map<String, Object>> files, boolean isReplaced) {
    static final String PRESET = "PRESET ANSWER";

    /// A message of its own.
    static SimulatedMessage of(Kind app, String conversation, String query) {
        return new SimulatedMessage(app, UUID.randomUUID().toString(), conversation, query, 1, false, List.of(), false);
    }

    SimulatedMessage moderated(boolean isReplaced) {
        return new SimulatedMessage(app, id, conversation, query, dialogue, isNamed, files, isReplaced);
    }

    /// Another question after this many in its conversation. Only the first one can give it a name.
    SimulatedMessage after(int before, boolean isNamed) {
        return new SimulatedMessage(app, id, conversation, query, before + 1, isNamed && before == 0, files,
                isReplaced);
    }

    SimulatedMessage with(List<Map<String, Object>> files) {
        return new SimulatedMessage(app, id, conversation, query, dialogue, isNamed, files, isReplaced);
    }

    // ── In a stream ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// An event of the run: `data` is the same as a workflow's.
    Map<String, Object> event(String name, SimulatedRun run, Map<String, Object> data) {
        return event(name, run, "workflow_run_id", run.id(), "data", data);
    }

    /// The next piece of the answer.
    Map<String, Object> piece(SimulatedRun run, String text, String... from) {
        return event("message", run, "id", id, "answer", text, "from_variable_selector", List.of(from));
    }

    /// Replaces all earlier pieces.
    Map<String, Object> replaced(SimulatedRun run) {
        return event("message_replace", run, "answer", PRESET, "reason", "output_moderation");
    }

    /// Moderation of the input answers alone, without a run.
    List<Map<String, Object>> preset(SimulatedRun run) {
        return List.of(event("message", run, "id", id, "answer", PRESET,
                "from_variable_selector", isNewest(run) ? List.of() : null), end(run));
    }

    Map<String, Object> end(SimulatedRun run) {
        return event("message_end", run, "id", id, "metadata", metadata(run), "files", List.of());
    }

    /// A chatflow of 1.9.2 sends it after the end of a failed run.
    Map<String, Object> error(SimulatedRun run, String code, String message) {
        return error(run, code, 400, message);
    }

    Map<String, Object> error(SimulatedRun run, String code, int status, String message) {
        var event = event("error", run, "code", code, "status", status, "message", message);
        event.remove("task_id");
        return event;
    }

    Map<String, Object> event(String name, SimulatedRun run, Object... more) {
        var event = object("event", name, "conversation_id", conversation, "message_id", id,
                "created_at", run.created().getEpochSecond(), "task_id", run.task());
        if (conversation.isEmpty()) event.remove("conversation_id");
        event.putAll(object(more));
        return event;
    }

    // ── As an answer ────────────────────────────────────────────────────────────────────────────────────────────────

    /// The answer to a blocking request: an HTTP 400 for a failed run, no run id without a run.
    SimulatedExchange.Reply reply(SimulatedJob.Report report) {
        var run = report.run();
        if (report.status().equals("failed"))
            return SimulatedExchange.Reply.error(400, "invalid_param", failure(report));
        boolean isPaused = report.status().equals("paused");
        var metadata = metadata(run);
        if (isPaused) metadata.put("usage", null);
        var answer = object("event", isPaused ? "workflow_paused" : "message", "task_id", run.task());
        var message = object("id", id, "message_id", id,
                "conversation_id", conversation, "mode", "advanced-chat", "answer", report.answer(),
                "metadata", metadata, "created_at", run.created().getEpochSecond());
        answer.putAll(message);
        if (isPaused) {
            answer.put("workflow_run_id", run.id());
            message.put("workflow_run_id", run.id());
            ((Map<?, ?>) report.last().get("data")).forEach((key, value) -> message.putIfAbsent((String) key, value));
            message.remove("outputs");
            answer.put("data", message);
        }
        return new SimulatedExchange.Reply(200, run.app().version().blockingType(),
                SimulatedJson.SPACED.json(answer));
    }

    static String failure(SimulatedJob.Report report) {
        return "Run failed: " + report.error();
    }

    private static Map<String, Object> metadata(SimulatedRun run) {
        var metadata = object("annotation_reply", null, "retriever_resources", List.of(), "usage", usage(run));
        if (isNewest(run)) metadata.put("reasoning", Map.of());
        return metadata;
    }

    private static Map<String, Object> usage(SimulatedRun run) {
        var first = run.state().outputs().isEmpty() ? null : run.seconds();
        var rest = first == null ? null : new BigDecimal("0.0");
        return object("prompt_tokens", 0, "prompt_unit_price", "0.0", "prompt_price_unit", "0.0",
                "prompt_price", "0.0", "completion_tokens", run.tokens(), "completion_unit_price", "0.0",
                "completion_price_unit", "0.0", "completion_price", "0.0", "total_tokens", run.tokens(),
                "total_price", "0.0", "currency", "USD", "latency", new BigDecimal("0.0"),
                "time_to_first_token", first, "time_to_generate", rest);
    }

    // ── Asked for afterwards ────────────────────────────────────────────────────────────────────────────────────────

    /// The conversation that starts with this question; its status says nothing about any run. The model gives it the
    /// whole question as a name.
    ///
    /// @param introduction the app's opening statement
    Map<String, Object> conversation(SimulatedRun run, Instant updated, String introduction) {
        int length = query.codePointCount(0, query.length());
        boolean isWhole = length <= 20 || isNamed && app.isPlain();
        var name = isWhole ? query : query.substring(0, query.offsetByCodePoints(0, 20)) + "…";
        return object("id", conversation, "name", name, "inputs", run.inputs(), "status", "normal",
                "introduction", introduction, "created_at", run.created().getEpochSecond(),
                "updated_at", updated.getEpochSecond());
    }

    /// @param report the end of the run, as far as it is written into the message
    /// @param waited each form that the run has waited for
    Map<String, Object> row(SimulatedRun run, Optional<SimulatedJob.Report> report, List<Map<String, Object>> waited) {
        var row = row(run);
        set(row, "extra_contents", waited);
        report.ifPresent(end -> {
            boolean isFailed = end.status().equals("failed");
            set(row, "answer", end.answer(), "status", isFailed ? "error"
                    : end.status().equals("paused") ? "paused" : "normal", "error", isFailed ? failure(end) : null,
                    "total_tokens", end.run().tokens());
            if (!isFailed) set(row, "answer_tokens", end.run().tokens(),
                    "provider_response_latency", end.run().seconds());
        });
        return row;
    }

    /// The message while nothing of an answer is stored.
    Map<String, Object> row(SimulatedRun run) {
        var row = object("id", id, "conversation_id", conversation,
                "parent_message_id", "00000000-0000-0000-0000-000000000000", "inputs", run.inputs(), "query", query,
                "answer", "");
        if (!isWorkers(run)) row.put("message_files", List.of());
        row.putAll(object("feedback", null, "retriever_resources", List.of(),
                "created_at", run.created().getEpochSecond(), "agent_thoughts", List.of()));
        if (isWorkers(run)) row.put("message_files", List.of());
        if (isNewest(run)) row.putAll(object("message_tokens", 0, "answer_tokens", 0,
                "provider_response_latency", new BigDecimal("0.0"), "total_price", "0E-7", "currency", "USD"));
        row.putAll(object("status", "normal", "error", null));
        if (isWorkers(run)) row.put("extra_contents", List.of());
        if (isNewest(run)) row.put("total_tokens", 0);
        return row;
    }

    /// Changes fields of a message, except those that its version lacks.
    static void set(Map<String, Object> row, Object... keysAndValues) {
        object(keysAndValues).forEach((key, value) -> {
            if (row.containsKey(key)) row.put(key, value);
        });
    }

    static boolean isWorkers(SimulatedRun run) {
        return run.app().version().hasWorker();
    }

    static boolean isNewest(SimulatedRun run) {
        return run.app().version().isFrom(SimulatedRun.Version.V1_16_0);
    }
}
