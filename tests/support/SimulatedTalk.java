package difyexec;

import difyexec.SimulatedExchange.*;
import difyexec.SimulatedModel.*;
import difyexec.SimulatedRun.State;
import difyexec.Simulator.*;
import difyexec.Simulator.Pace;
import difyexec.Simulator.Setup.Kind;

import module java.base;

import static difyexec.SimulatedJson.object;

/// What the model says in one row of an app without a workflow, and how the API shows it, field for field in Dify's
/// order. The model's thread says it; the thread of the request reads it and stores the answer. So a stream whose
/// client has left stores none, although the model speaks to its end; only the thoughts of an agent are stored as they
/// come.
final class SimulatedTalk {
    /// Dify looks that often whether a row is to stop.
    static final Duration STOP_PERIOD = Duration.ofMillis(800);
    private static final Duration PING_PERIOD = Duration.ofSeconds(10);
    /// The new agent says at once what the model said in such a time.
    private static final Duration AGENT_PERIOD = Duration.ofMillis(800);

    private final SimulatedMessage question;
    private final Setup.Traits traits;
    private final boolean streaming;
    final Script script;
    private final BlockingQueue<Said> said = new LinkedBlockingQueue<>();
    private final List<Thought> thoughts = new CopyOnWriteArrayList<>();
    /// Empty if the process was killed.
    private final CompletableFuture<Optional<Said.End>> end = new CompletableFuture<>();
    private volatile Optional<Said.End> stored = Optional.empty();
    private volatile SimulatedRun run;
    // these are the model's thread's
    private final StringBuilder all = new StringBuilder(), round = new StringBuilder();
    private final List<String> rounds = new ArrayList<>(), waiting = new ArrayList<>();
    private Duration waited = Duration.ZERO;
    private boolean isAnnounced = false;

    SimulatedTalk(SimulatedMessage question, Setup.Traits traits, boolean streaming, Script script) {
        this.question = question;
        this.traits = traits;
        this.streaming = streaming;
        this.script = script;
    }

    private sealed interface Said {
        record Event(Map<String, Object> event) implements Said {}
        record End(SimulatedRun run, String answer, Usage usage, Optional<Failure> failure) implements Said {}
        /// The process is killed.
        record Nothing() implements Said {}
    }

    /// One round of an agent, as far as it is stored.
    private record Thought(String id, int position, String text, String answer, String tool, String input,
                           String observation) {
        static Thought of(int position) {
            return new Thought(UUID.randomUUID().toString(), position, "", "", "", "", "");
        }

        Thought with(String text, String answer) {
            return new Thought(id, position, text, answer, tool, input, observation);
        }

        Thought with(Step.Call call, String observation) {
            return new Thought(id, position, text, answer, call.tool(), call.input(), observation);
        }
    }

    // ── The model's thread ──────────────────────────────────────────────────────────────────────────────────────────

    void begin(SimulatedRun run) {
        this.run = run;
        if (question.app() != Kind.AGENT_CHAT || !script.isAsked()) return;
        thoughts.add(Thought.of(1));
        if (traits.isReact()) announce();
    }

    void say(Step step) {
        switch (step) {
            case Step.Say(var after, var text) -> say(after, text);
            case Step.Think(_, var text) -> {
                thoughts.add(Thought.of(thoughts.size() + 1).with(text, ""));
                event(thought());
            }
            case Step.Call call when question.app() == Kind.AGENT -> {
                thoughts.add(Thought.of(thoughts.size() + 1).with(call, ""));
                event(thought());
                change(thoughts.getLast().with(call, call.observation()));
                event(thought());
            }
            case Step.Call call -> {
                endRound();
                change(thoughts.getLast().with(call, ""));
                event(thought());
                change(thoughts.getLast().with(call, call.observation()));
                event(thought());
                thoughts.add(Thought.of(thoughts.size() + 1));
                isAnnounced = false;
            }
        }
    }

    private void say(Duration after, String text) {
        all.append(text);
        round.append(text);
        switch (question.app()) {
            case AGENT_CHAT -> {
                if (script.isAsked()) announce();
                event(script.isAsked() ? "agent_message" : "message", "answer", text);
            }
            case AGENT -> {
                waiting.add(text);
                waited = waited.plus(after);
                if (waited.compareTo(AGENT_PERIOD) >= 0) flush();
            }
            default -> event("message", "answer", text);
        }
    }

    /// The new agent says what it has; until its end, its thoughts show the answer so far.
    private void flush() {
        if (waiting.isEmpty() || !script.isAsked()) return;
        boolean isFirst = all.length() == String.join("", waiting).length();
        if (isFirst) thoughts.add(Thought.of(thoughts.size() + 1));
        change(thoughts.getLast().with("", all.toString()));
        event(thought());
        event("agent_message", "answer", String.join("", waiting));
        waiting.clear();
        waited = Duration.ZERO;
    }

    private void announce() {
        if (!isAnnounced) event(thought());
        isAnnounced = true;
    }

    /// The end of a round of the old agent.
    private void endRound() {
        announce();
        event("agent_message", "answer", "");
        change(thoughts.getLast().with(round.toString(), round.toString()));
        rounds.add(round.toString());
        round.setLength(0);
    }

    private void change(Thought thought) {
        thoughts.set(thoughts.size() - 1, thought);
    }

    private void event(String name, String key, Object value) {
        var event = question.event(name, run, "id", question.id(), key, value);
        if (name.equals("message")) event.put("from_variable_selector", SimulatedMessage.isNewest(run)
                ? List.of() : null);
        event(event);
    }

    private void event(Map<String, Object> event) {
        said.add(new Said.Event(event));
    }

    /// The model has said all.
    void end(SimulatedRun ended) {
        var failure = script.failure();
        var answer = failure.isPresent() ? "" : switch (question.app()) {
            case AGENT -> answeredByAgent();
            case AGENT_CHAT -> script.isAsked() ? answeredInRounds() : all.toString();
            default -> {
                if (script.isAsked()) event("message", "answer", "");
                yield all.toString();
            }
        };
        if (question.isReplaced() && failure.isEmpty()) answer = SimulatedMessage.PRESET;
        end(new Said.End(ended, answer, script.usage(), failure));
    }

    /// A blocking request stores the answer at once, whether or not its client is there.
    private void end(Said.End end) {
        if (!streaming) stored = Optional.of(end);
        said.add(end);
        this.end.complete(Optional.of(end));
    }

    private String answeredByAgent() {
        flush();
        if (!all.isEmpty() && script.isAsked()) thoughts.removeLast();
        if (!all.isEmpty()) event("message", "answer", all.toString());
        return all.toString();
    }

    private String answeredInRounds() {
        if (!traits.isReact()) {
            endRound();
            event(thought());
            return String.join("\n", rounds);
        }
        if (!script.isInForm()) {
            event("agent_message", "answer", "");
            change(thoughts.getLast().with(all.toString(), all.toString()));
            return "";
        }
        var parts = all.toString().strip().split("\n ", 2);
        var last = thoughts.getLast().with(String.join("", parts), parts[parts.length - 1]);
        change(new Thought(last.id(), last.position(), last.text(), last.answer(), "",
                SimulatedJson.SPACED.json(object("Final Answer", last.answer())), ""));
        return last.answer();
    }

    /// Stopped by its task id, or out of time: it looks like a success, but for its usage. A blocking response has
    /// nothing of what was said, and an agent stores nothing of it from 1.14.2 on.
    void stop(SimulatedRun stopped) {
        if (question.app() == Kind.AGENT) flush();
        boolean isLost = !streaming || question.app() == Kind.AGENT
                || question.app() == Kind.AGENT_CHAT && SimulatedMessage.isWorkers(run);
        end(new Said.End(stopped, isLost ? "" : all.toString(), script.usage().none(), Optional.empty()));
    }

    void die() {
        said.add(new Said.Nothing());
        end.complete(Optional.empty());
    }

    // ── The thread of the request ───────────────────────────────────────────────────────────────────────────────────

    /// The response to a blocking request, when the row has ended.
    Reply reply() throws IOException {
        return reply(end.join().orElseThrow(SimulatedTalk::killed));
    }

    private static IOException killed() {
        return new IOException("the process that had this request is killed");
    }

    private Reply reply(Said.End end) {
        if (end.failure().isPresent())
            return Reply.error(400, end.failure().get().code(), end.failure().get().message());
        boolean isEmpty = all.isEmpty() && end.run().state() instanceof State.Succeeded;
        if (isEmpty && !SimulatedMessage.isWorkers(run)) return Reply.error(400, "invalid_param", "1 validation error "
                + "for Data\nanswer\n  Input should be a valid string [type=string_type, input_value=[], "
                + "input_type=list]\n    For further information visit https://errors.pydantic.dev/2.11/v/string_type");
        var answer = object("event", "message", "task_id", run.task(), "id", question.id(),
                "message_id", question.id(), "conversation_id", question.conversation(), "mode", question.app().mode,
                "answer", end.answer(), "metadata", metadata(end),
                "created_at", run.created().getEpochSecond());
        if (question.conversation().isEmpty()) answer.remove("conversation_id");
        return new Reply(200, run.app().version().blockingType(), SimulatedJson.SPACED.json(answer));
    }

    /// Writes what the model says, until its end. Nothing is sent before, not even the head. The answer is stored if
    /// the client was there at the last write before the end.
    void stream(SimulatedExchange exchange, SimulatedJob job, Pace pace) throws IOException, InterruptedException {
        var writer = new Writer(exchange, job.fate);
        long start = System.nanoTime(), period = PING_PERIOD.dividedBy(pace.times()).toNanos();
        for (long pings = 1; ; ) {
            var next = said.poll(start + pings * period - System.nanoTime(), TimeUnit.NANOSECONDS);
            switch (next) {
                case null -> {
                    writer.write(Chunks.PING);
                    pings++;
                }
                case Said.Event(var event) -> writer.write(line(event));
                case Said.Nothing _ -> throw killed();
                case Said.End end -> {
                    if (job.fate.fault() != Fault.UNRECORDED) stored = Optional.of(end);
                    writer.end(end);
                    return;
                }
            }
        }
    }

    private static String line(Map<String, Object> event) {
        return "data: " + SimulatedJson.COMPACT.json(event) + "\n\n";
    }

    /// Writes the events of one stream, with its fault.
    private final class Writer {
        private final SimulatedExchange exchange;
        private final Fate fate;
        /// The event in which the connection breaks, or after which nothing arrives any more.
        private final int last;
        private Optional<Chunks> out = Optional.empty();
        private int events = 0;

        Writer(SimulatedExchange exchange, Fate fate) {
            this.exchange = exchange;
            this.fate = fate;
            int pieces = Math.max(1, script.steps().size());
            this.last = switch (fate.fault()) {
                case DROP_AFTER -> fate.die() % 3 > 0 ? 1 + fate.die() / 3 % pieces : Integer.MAX_VALUE;
                case FREEZE -> fate.die() % (pieces + 1);
                default -> Integer.MAX_VALUE;
            };
        }

        void write(String text) throws IOException {
            boolean isFrozen = fate.fault() == Fault.FREEZE && events >= last;
            if (isFrozen) return;
            if (exchange.hasLeft()) throw new IOException("the client has left");
            if (!text.equals(Chunks.PING) && ++events == last && fate.fault() == Fault.DROP_AFTER) out().cut(text);
            out().write(text);
        }

        private Chunks out() throws IOException {
            if (out.isEmpty()) out = Optional.of(exchange.stream(false));
            return out.get();
        }

        void end(Said.End end) throws IOException {
            if (fate.fault() == Fault.FREEZE) exchange.awaitLeave();
            var closing = fate.fault() == Fault.OTHER_END ? another() : closing(end);
            for (var event : closing.subList(0, closing.size() - 1)) out().write(line(event));
            if (fate.fault() == Fault.DROP_AFTER) out().cut(line(closing.getLast()));
            if (fate.fault() != Fault.LOSE_FINISH) out().write(line(closing.getLast()));
            out().end();
        }
    }

    private List<Map<String, Object>> closing(Said.End end) {
        if (end.failure().isPresent()) {
            var failure = end.failure().get();
            return List.of(question.error(run, failure.streamCode(), failure.streamStatus(), failure.streamMessage()));
        }
        var last = question.event("message_end", run, "id", question.id(), "metadata", metadata(end), "files",
                SimulatedMessage.isWorkers(run) ? question.files().stream().map(SimulatedFiles::atEnd).toList() : null);
        return question.isReplaced() && end.run().state() instanceof State.Succeeded
                ? List.of(question.event("message_replace", run, "answer", SimulatedMessage.PRESET, "reason", ""), last)
                : List.of(last);
    }

    /// The end of another row.
    private List<Map<String, Object>> another() {
        var conversation = question.conversation().isEmpty() ? "" : UUID.randomUUID().toString();
        var other = new SimulatedTalk(SimulatedMessage.of(question.app(), conversation, ""), traits, true, script);
        other.run = SimulatedRun.begin(run.app(), "", Map.of(), Optional.of(other.question), Instant.now());
        var ended = other.run.end(new State.Succeeded(Map.of()), 1, Instant.now());
        other.event("message", "answer", "of another row");
        var piece = ((Said.Event) other.said.remove()).event();
        return List.of(piece, other.closing(new Said.End(ended, "", script.usage(), Optional.empty())).getLast());
    }

    /// A stream from 1.16.0 on leaves out what is null.
    private Map<String, Object> metadata(Said.End end) {
        boolean isNewest = SimulatedMessage.isNewest(run);
        var usage = usage(end);
        var metadata = object("annotation_reply", null, "retriever_resources", List.of(), "usage", usage);
        if (isNewest) metadata.put("reasoning", Map.of());
        if (isNewest && streaming) List.of(metadata, usage).forEach(each -> each.values().removeIf(Objects::isNull));
        return metadata;
    }

    private Map<String, Object> usage(Said.End end) {
        var usage = end.usage();
        boolean isTimed = script.isAsked() && usage.total() > 0 && question.app() != Kind.AGENT;
        var first = isTimed ? seconds(script.thinking()) : null;
        var rest = isTimed ? seconds(script.total().minus(script.thinking())) : null;
        var units = usage.units();
        return object("prompt_tokens", usage.prompt(), "prompt_unit_price", units.get(0),
                "prompt_price_unit", units.get(2), "prompt_price", price(usage.promptPrice()),
                "completion_tokens", usage.completion(), "completion_unit_price", units.get(1),
                "completion_price_unit", units.get(2), "completion_price", price(usage.completionPrice()),
                "total_tokens", usage.total(), "total_price", price(usage.totalPrice()), "currency", "USD",
                "latency", end.run().seconds(), "time_to_first_token", first, "time_to_generate", rest);
    }

    private static BigDecimal seconds(Duration time) {
        return BigDecimal.valueOf(time.toMillis(), 3);
    }

    /// Without an exponent in a blocking response, and with one for zero in a stream.
    private String price(BigDecimal price) {
        return streaming ? price.toString() : price.toPlainString();
    }

    // ── Asked for afterwards ────────────────────────────────────────────────────────────────────────────────────────

    /// The message as far as it is stored.
    Map<String, Object> row(SimulatedRun run) {
        var row = question.row(run);
        SimulatedMessage.set(row, "agent_thoughts", thoughts.stream().map(thought -> stored(thought, run)).toList(),
                "message_files", question.files().stream().map(SimulatedFiles::inMessage).toList());
        stored.ifPresent(end -> {
            if (end.failure().isPresent()) {
                SimulatedMessage.set(row, "status", "error", "error", end.failure().get().stored());
                return;
            }
            var usage = end.usage();
            SimulatedMessage.set(row, "answer", SimulatedModel.stored(end.answer()), "message_tokens", usage.prompt(),
                    "answer_tokens", usage.completion(), "provider_response_latency", end.run().seconds(),
                    "total_price", usage.totalPrice().setScale(7).toString(), "total_tokens", usage.total());
        });
        return row;
    }

    /// How often the model is asked: once a round, and for a name.
    int asked() {
        boolean isOfRounds = question.app() == Kind.AGENT_CHAT;
        long rounds = 1 + script.steps().stream().filter(step -> isOfRounds && step instanceof Step.Call).count();
        boolean isAsked = script.isAsked() || question.app() == Kind.AGENT; // it may ask back
        return (question.isNamed() ? 1 : 0) + (isAsked ? (int) rounds : 0);
    }

    /// How often it answers to the end, without calls of tools.
    int answered(String status) {
        return (question.isNamed() ? 1 : 0) + (status.equals("succeeded") && script.isAsked() ? 1 : 0);
    }

    boolean isStored() {
        return stored.isPresent();
    }

    /// The app's opening statement, as the conversation shows it.
    String introduction(SimulatedRun run) {
        return Pattern.compile("\\{\\{(\\w+)}}").matcher(traits.opening().orElse("")).replaceAll(name ->
                Matcher.quoteReplacement(Objects.toString(run.inputs().get(name.group(1)), "")));
    }

    private Map<String, Object> thought() {
        var thought = thoughts.getLast();
        return question.event("agent_thought", run, "id", thought.id(), "position", thought.position(),
                "thought", thought.text(), "observation", thought.observation(), "tool", thought.tool(),
                "tool_labels", labels(thought.tool()), "tool_input", thought.input(), "message_files", List.of());
    }

    private Map<String, Object> stored(Thought thought, SimulatedRun run) {
        var stored = object("id", thought.id(), "chain_id", null, "message_id", question.id(),
                "position", thought.position(), "thought", thought.text(), "answer", thought.answer(),
                "tool", thought.tool(), "tool_labels", labels(thought.tool()), "tool_input", thought.input(),
                "created_at", run.created().getEpochSecond(), "observation", thought.observation(),
                "files", List.of());
        if (!SimulatedMessage.isWorkers(run)) stored.remove("answer");
        return stored;
    }

    private Map<String, Object> labels(String tool) {
        if (tool.isEmpty()) return Map.of();
        var label = object("en_US", tool, "zh_Hans", tool);
        if (question.app() == Kind.AGENT_CHAT) label.putAll(object("pt_BR", tool, "ja_JP", tool));
        return object(tool, label);
    }
}
