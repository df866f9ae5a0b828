package difyexec;

import difyexec.SimulatedRun.State;

import module java.base;

import static difyexec.SimulatedJson.object;
import static java.util.stream.Collectors.joining;

/// A workflow of the simulated app that calls a service over HTTP, as the recorded apps do: the steps between its Start
/// and its End node (a chatflow's Answer node), and the events that report them, field for field and in the order of
/// each version.
///
/// The service echoes its input (a chatflow's question), after `delay_ms` and with the HTTP status
/// `status` (200), both of them inputs of the run.
///
/// @param outputs the End node's outputs: name to selector, say `answer` to `call.body`; empty without an End node
record SimulatedGraph(List<Step> steps, Map<String, String> outputs) {
    /// The text of a [Step.Say].
    static final String FIRST_PART = "Let me ask. ";

    sealed interface Step {
        /// An http-request node. `forgiving`: tried twice, with a default value instead of a failure.
        record Call(String id, boolean forgiving) implements Step {}
        /// A Human Input node with one paragraph, `note`.
        record Ask(String id) implements Step {}
        /// An Answer node before the last one, with a part of a chatflow's answer.
        record Say(String id) implements Step {}
        /// A node of a kind unknown to this server.
        record Unknown(String kind) implements Step {}
    }

    /// The course of a run: its events until it first waits, and after; a pause or the end follows.
    record Course(List<Map<String, Object>> opening, List<Map<String, Object>> closing, State ending) {}

    /// Waits for a person, and ends with the text that this person enters.
    static SimulatedGraph asking(boolean isChat) {
        return isChat ? new SimulatedGraph(List.of(new Step.Say("first"), new Step.Ask("ask")),
                Map.of("answer", "ask.answer")) : new SimulatedGraph(List.of(new Step.Ask("ask")),
                Map.of("row_id", "start.id", "text", "ask.note"));
    }

    /// The kind of a node that prevents this graph from starting.
    Optional<String> unknown() {
        return steps.stream().filter(Step.Unknown.class::isInstance).map(step -> ((Step.Unknown) step).kind())
                .findFirst();
    }

    Duration takes(Map<String, Object> inputs) {
        return inputs.get("delay_ms") instanceof Number number ? Duration.ofMillis(number.longValue()) : Duration.ZERO;
    }

    Course course(SimulatedRun run) {
        return new EventWriter(run).course();
    }

    /// The events after a person has answered with this `note`.
    Course resumed(SimulatedRun run, String note) {
        return new EventWriter(run).resumed(note);
    }

    /// The question of a Human Input node; the same in each place that shows it.
    static Map<String, Object> question(SimulatedRun run) {
        var blank = object("type", "constant", "selector", List.of(), "value", "");
        return object("form_content", "Please look at " + sent(run)
                        + "\n\n{{#$output.note#}}",
                "inputs", List.of(object("output_variable_name", "note", "type", "paragraph",
                        "default", blank)),
                "actions", List.of(action("ok", "OK", "primary"), action("no", "No", "default")));
    }

    private static Object sent(SimulatedRun run) {
        return run.question().<Object>map(SimulatedMessage::query).orElse(run.inputs().get("body_text"));
    }

    /// A submitted form.
    static Map<String, Object> filled(SimulatedRun run, String note) {
        var text = String.valueOf(question(run).get("form_content")).replace("{{#$output.note#}}", note);
        return object("node_id", "ask", "node_title", "ask", "rendered_content", text, "action_id", "ok",
                "action_text", "OK", "submitted_data", object("note", note));
    }

    private static Map<String, Object> action(String id, String title, String style) {
        return object("id", id, "title", title, "button_style", style);
    }

    /// Writes the events of one run.
    private final class EventWriter {
        private final SimulatedRun run;
        private final boolean worker, newest;
        private final List<Map<String, Object>> opening = new ArrayList<>(), closing = new ArrayList<>();
        private List<Map<String, Object>> out = opening;
        private final Map<String, Object> values = new HashMap<>();
        private final Deque<String> texts = new ArrayDeque<>();

        EventWriter(SimulatedRun run) {
            this.run = run;
            this.worker = run.app().version().hasWorker();
            this.newest = run.app().version().isFrom(SimulatedRun.Version.V1_16_0);
            run.inputs().forEach((name, value) -> values.put("start." + name, value));
            outputs.values().forEach(selector -> {
                if (!texts.isEmpty()) texts.add("\n");
                texts.add(selector);
            });
        }

        Course course() {
            start();
            for (var step : steps) {
                var stop = take(step);
                if (stop.isPresent()) return new Course(opening, closing, stop.get());
            }
            end();
            boolean handled = steps.stream().anyMatch(step -> step instanceof Step.Call(var id, _)
                    && values.get(id + ".error") instanceof String);
            var given = given();
            return new Course(opening, closing, handled ? new State.Partial(given, "") : new State.Succeeded(given));
        }

        Course resumed(String note) {
            start();
            opening.clear();
            out = closing;
            out.add(event("workflow_started", with(run.opening().getFirst(), "reason", "resumption")));
            out.add(run.nodeStarted("ask", "human-input"));
            var form = filled(run, note);
            var text = form.get("rendered_content");
            values.put("ask.note", note);
            values.put("ask.answer", FIRST_PART + "Note: " + note);
            if (!run.app().version().isFrom(SimulatedRun.Version.V1_16_1))
                out.add(event("human_input_form_filled", form));
            texts();
            out.add(run.nodeFinished("ask", "human-input", object("note", object("value_type", "string",
                    "value", note)), Map.of(), object("note", note, "__action_id", "ok",
                    "__rendered_content", text, "__action_value", "OK"), "succeeded", null, null));
            end();
            return new Course(opening, closing, new State.Succeeded(given()));
        }

        /// Text that needs only inputs comes first in 1.14.2; in 1.9.2 it comes with the node that gives it.
        private void start() {
            var events = run.opening();
            out.add(events.get(0));
            if (!steps.isEmpty() && steps.getFirst() instanceof Step.Say(var id))
                out.add(run.textChunk(FIRST_PART, id, "answer"));
            if (worker) texts();
            out.add(events.get(1));
            texts();
            out.add(events.get(2));
        }

        /// The state in which the run ends at this step, if it does.
        private Optional<State> take(Step step) {
            return switch (step) {
                case Step.Call call -> called(call);
                case Step.Ask(var id) -> {
                    out.add(run.nodeStarted(id, "human-input"));
                    if (worker) out.add(event("human_input_required", asked(id)));
                    yield Optional.of(new State.Paused(id));
                }
                case Step.Say(var id) -> {
                    out.add(run.nodeStarted(id, "answer"));
                    out.add(run.nodeFinished(id, "answer", Map.of(), Map.of(), object("answer", FIRST_PART,
                            "files", List.of()), "succeeded", null, null));
                    yield Optional.empty();
                }
                case Step.Unknown _ -> Optional.empty();
            };
        }

        private Map<String, Object> asked(String id) {
            var reason = run.end(new State.Paused(id), 0, run.created()).reason();
            reason.remove("TYPE");
            reason.put("display_in_ui", true);
            return reason;
        }

        /// 1.16.0 counts any answer as a success, unless the call is to be repeated.
        private Optional<State> called(Step.Call call) {
            out.add(run.nodeStarted(call.id(), "http-request"));
            out = closing;
            int status = run.inputs().get("status") instanceof Number number ? number.intValue() : 200;
            if (status == 99) return failed(call, Map.of(), "illegal status line: bytearray(b'HTTP/1.1 99 X')");
            var answer = answer(status);
            if (status == 429 || status >= 500) {
                if (!newest) return failed(call, Map.of(), "Reached maximum retries " + (worker ? "" : "(0) ")
                        + "for URL http://127.0.0.1:9009/echo");
                if (call.forgiving()) return failed(call, answer, "Request failed with status code " + status);
            }
            values.put(call.id() + ".body", answer.get("body"));
            values.put(call.id() + ".status_code", status);
            texts();
            out.add(run.nodeFinished(call.id(), "http-request", Map.of(), request(), answer, "succeeded", null, null));
            return Optional.empty();
        }

        private Map<String, Object> answer(int status) {
            var body = body(sent(run));
            return object("status_code", status, "body", body, "headers", object("content-type", "application/json",
                    "content-length", String.valueOf(body.length())), "files", List.of());
        }

        /// @param answer the answer, if it is reported
        private Optional<State> failed(Step.Call call, Map<String, Object> answer, String why) {
            if (!call.forgiving()) {
                out.add(run.nodeFinished(call.id(), "http-request", Map.of(), request(), answer, "failed", why, null));
                return Optional.of(new State.Failed(why));
            }
            var retry = run.nodeFinished(call.id(), "http-request", Map.of(), request(), answer, "retry", why, null);
            out.add(event("node_retry", with(retry, "retry_index", 1)));
            values.putAll(Map.of(call.id() + ".body", "fallback", call.id() + ".status_code", 599,
                    call.id() + ".error", why));
            if (worker) texts();
            out.add(run.nodeFinished(call.id(), "http-request", Map.of(), request(), object("body", "fallback",
                    "status_code", 599, "headers", Map.of(), "error_message", why,
                    "error_type", newest ? "HTTPResponseCodeError" : "HttpRequestNodeError"),
                    "exception", "Unknown error", object("error_strategy", "default-value")));
            return Optional.empty();
        }

        private static Map<String, Object> with(Map<String, Object> event, String key, Object value) {
            var data = new LinkedHashMap<String, Object>();
            ((Map<?, ?>) event.get("data")).forEach((name, each) -> data.put((String) name, each));
            data.put(key, value);
            return data;
        }

        private void end() {
            out = closing;
            if (outputs.isEmpty()) return;
            var last = run.question().isPresent() ? "answer" : "end";
            out.add(run.nodeStarted(last, last));
            values.put("end.started", true);
            texts();
            out.add(run.nodeFinished(last, last, last.equals("end") ? given() : Map.of(), Map.of(), given(),
                    "succeeded", null, null));
        }

        private Map<String, Object> given() {
            var given = new LinkedHashMap<String, Object>();
            outputs.forEach((name, selector) -> given.put(name, values.get(selector)));
            if (run.question().isPresent()) given.put("files", List.of());
            return given;
        }

        /// The outputs that can be reported by now. In 1.9.2, a failure replaced by a default value leaves it open
        /// whether the End node is reached.
        private void texts() {
            boolean open = !worker && !values.containsKey("end.started") && steps.stream().anyMatch(step ->
                    step instanceof Step.Call(var id, var forgiving) && forgiving && values.containsKey(id + ".error"));
            while (!open && !texts.isEmpty() && (texts.peek().equals("\n") || values.containsKey(texts.peek()))) {
                var selector = texts.remove();
                if (selector.equals("\n")) out.add(run.textChunk("\n", "end", "answer"));
                else if (values.get(selector) != null) out.add(run.textChunk(text(values.get(selector)),
                        selector.split("\\.")));
            }
        }

        private static String text(Object value) {
            return value instanceof Collection<?> list ? list.stream().map(String::valueOf).collect(joining("\n"))
                    : String.valueOf(value);
        }

        private String body(Object echoed) {
            var query = object();
            for (var name : List.of("delay_ms", "status")) if (run.inputs().get(name) instanceof Number number)
                query.put(name, number.toString());
            if (run.question().isEmpty()) query.put("row", run.inputs().get("id"));
            var text = String.valueOf(echoed);
            return SimulatedJson.SPACED.json(object("echo",
                    text.substring(0, Math.min(2000, text.length())), "q", query));
        }

        private Map<String, Object> request() {
            return object("request", "POST /echo HTTP/1.1\r\nHost: 127.0.0.1:9009\r\n\r\n");
        }

        private Map<String, Object> event(String name, Map<String, Object> data) {
            return run.event(name, data);
        }
    }
}
