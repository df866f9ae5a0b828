package difyexec;

import difyexec.DifyExec.Limits.Ceiling;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.FieldSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Judge.RetryRuns;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Sessions of a batch, as text. Lines are done in order; each `then` plays a session and checks facts about it.
///
/// ```
/// a run that appears after its row was sent again is reported as late
///   given   rows a b, STREAMING, slots 2, interrupt 1
///   answers a: cut, succeeded run-8; each: 5s succeeded own
///   finds   LATE: running run-7, succeeded run-7; else: absent
///   then    a not_started succeeded, sent a a, late run-7, passed 30..60
/// ```
///
/// A row has one answer for each request, and then those of `each`, or successes. The last result of a look-up repeats.
/// An answer or a look-up that `dies` ends the session as a crash does; the fact of the same name expects this.
/// `own` is the run of the row itself, say `run-a`. A range of seconds does not include its end.
record Story(String name, List<String> lines) {
    /// Tests whose field `STORIES` is played, each in a folder of its own.
    abstract static class Sessions {
        @TempDir Path folder;

        @ParameterizedTest(name = "{0}")
        @FieldSource("STORIES")
        void eachStoryHasItsExpectedOutcome(Story story) throws Exception {
            story.play(folder);
        }
    }

    static List<Story> of(String text) {
        return Stream.of(text.split("\n\n")).map(story -> story.lines().map(String::strip).toList())
                .map(story -> new Story(story.getFirst(), story.subList(1, story.size()))).toList();
    }

    @Override
    public String toString() {
        return name;
    }

    /// What its lines list, for a story of something else than a batch.
    List<String> steps() {
        return lines.stream().flatMap(line -> Stream.of(line.split(", "))).toList();
    }

    void play(Path folder) throws Exception {
        var scene = Scene.of(folder, "a");
        for (var line : lines) {
            var words = line.split(" +", 2);
            switch (words[0]) {
                case "given" -> {
                    for (var each : words[1].split(", ")) given(scene, each.split(" ", 2));
                }
                case "answers" -> scene.answer = answer(scene, words[1]);
                case "finds" -> scene.found = lookUps(scene, words[1]);
                case "then" -> check(scene, words[1].split(", "));
                default -> throw new IllegalArgumentException(line);
            }
        }
    }

    private static void given(Scene scene, String... words) throws IOException {
        var values = words.length == 1 ? new String[] {""} : words[1].split(" ");
        long number = values[0].matches("-?\\d+") ? Long.parseLong(values[0]) : 0;
        switch (words[0]) {
            case "rows" -> Files.writeString(scene.csv, "id\n" + String.join("\n", values) + "\n");
            case "BLOCKING", "STREAMING", "AUTO" -> scene.mode = Mode.valueOf(words[0]);
            case "CHATFLOW", "CHAT", "AGENT_CHAT", "AGENT", "COMPLETION" -> scene.app = AppKind.valueOf(words[0]);
            case "server" -> scene.server = values[0].replace("unknown", "");
            case "slots" -> scene.slots = (int) number;
            case "timeout" -> scene.timeout = seconds(number);
            case "settle" -> scene.settle = seconds(number);
            case "wait" -> scene.wait = seconds(number);
            case "looks-take" -> scene.lookTakes = seconds(number);
            case "grace" -> scene.grace = seconds(number);
            case "interrupt" -> scene.interruptAfter(seconds(number));
            case "clock" -> scene.world.startAt(NOON.plusSeconds(number));
            case "crash" -> scene.crash((int) number);
            case "lose-results" -> Files.delete(scene.output);
            case "tokens" -> scene.maxTokens = number;
            case "failures" -> scene.maxFailures = new Ceiling(number, Double.parseDouble(values[1]));
            case "backoff" -> scene.backoff = new Backoff(seconds(number), seconds(Long.parseLong(values[1])),
                    Integer.parseInt(values[2]));
            case "require" -> scene.require = List.of(values);
            case "always" -> scene.failedRuns = RetryRuns.ALWAYS;
            case "resend" -> scene.resendUnknown = true;
            case "probes-fail" -> scene.probed = () -> Optional.of(new Response.NotSent("connection refused", ""));
            case "limit" -> scene.selection = new Batch.Selection(Set.of(), List.of(), number,
                    OptionalLong.empty());
            case "pending" -> scene.selection = Batch.Selection.PENDING;
            case "listed" -> scene.selection = Batch.Selection.LISTED;
            case "again" -> scene.selection = Batch.Selection.named(List.of(values), true);
            case "named" -> scene.selection = Batch.Selection.named(List.of(values), false);
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    private static Answer answer(Scene scene, String text) {
        var left = queues(text);
        return (attempt, listener) -> {
            var id = attempt.row().id();
            var own = left.getOrDefault(id, new ArrayDeque<>());
            var others = left.getOrDefault("each", new ArrayDeque<>(List.of("succeeded own"))).peek();
            var words = own.isEmpty() ? others : own.remove();
            return answer(scene, words.replace("own", "run-" + id), listener);
        };
    }

    /// `a: cut, succeeded run-8; else: absent` as queues by key.
    private static Map<String, Deque<String>> queues(String text) {
        return Stream.of(text.split("; ")).map(part -> part.split(": ", 2)).collect(Collectors.toMap(part -> part[0],
                part -> new ArrayDeque<>(List.of(part[1].split(", ")))));
    }

    /// Times to pass and events of a stream, before a response.
    private static Response answer(Scene scene, String words, Consumer<StreamEvent> listener)
            throws InterruptedException {
        var word = words.split(" ", 2);
        if (word[0].matches("\\d+(ms|s)")) {
            scene.world.pass(CommandLines.Converters.duration(word[0]));
            return answer(scene, word[1], listener);
        }
        var rest = word.length == 1 ? new String[] {"", ""} : word[1].split(" ", 2);
        switch (word[0]) {
            case "began" -> listener.accept(new StreamEvent.Began(run(rest[0])));
            case "beganMadeUp" -> listener.accept(new StreamEvent.Began(new RunRef(rest[0], rest[0])));
            case "expired" -> listener.accept(new StreamEvent.FormExpired(rest[0]));
            case "quiet" -> listener.accept(new StreamEvent.Idle(run(rest[0])));
            case "stoppable" -> {
                var stopped = scene.untilStopped(run(rest[0]), listener);
                return rest.length == 1 ? stopped : answer(scene, rest[1], listener);
            }
            case "chunk" -> listener.accept(new StreamEvent.Chunk(rest[0]));
            case "dies" -> throw new IllegalStateException("the power fails");
            case "forever" -> {
                scene.world.waitFor(_ -> {});
                throw new AssertionError("nothing wakes a stream that was given up");
            }
            default -> {
                return response(words);
            }
        }
        return answer(scene, rest[1], listener);
    }

    static Response response(String words) {
        var word = words.split(" ", 2);
        var rest = word.length > 1 ? word[1] : "";
        return switch (word[0]) {
            case "cut" -> rest.isEmpty() ? cut(Symptom.NO_RESPONSE) : cut(Symptom.CUT, run(rest));
            case "overdue" -> rest.isEmpty() ? cut(Symptom.TIMED_OUT) : cut(Symptom.TIMED_OUT, run(rest));
            case "silent" -> cut(Symptom.STREAM_SILENT);
            case "contradicted" -> cut(Symptom.CONTRADICTED, run(rest));
            case "error" -> Response.Refused.event(500, "", rest, Optional.of(run("run-7")));
            case "madeUp" -> madeUp("run-7", rest);
            case "http" -> html(Integer.parseInt(rest));
            case "gateway" -> late(Integer.parseInt(rest));
            case "broken" -> http(500, "internal_server_error", "The server encountered an internal error");
            case "rejected" -> http(400, "invalid_param", "no");
            case "unauthorized" -> http(401, "unauthorized", "Access token is invalid");
            case "throttled" -> THROTTLED;
            case "unsent" -> new Response.NotSent("connection refused", "");
            case "later" -> later(503, seconds(Long.parseLong(rest)));
            case "unreadable" -> new Response.Unreadable(Optional.of(run(rest)), "too large");
            case "tooLarge" -> new Response.Unreadable(Optional.empty(), "too large");
            case "answered" -> answered("So", 20);
            case "textless" -> answered("", 20);
            case "uncounted" -> answered("So", 0);
            case "halted" -> answered("So", 0).stopped();
            case "boom" -> Response.Ran.failed("Run failed: connection error");
            case "failed" -> failed(rest);
            case "aborted" -> ran(rest, RunStatus.FAILED, "Aborted: User requested stop");
            case "closed" -> ran(rest, RunStatus.STOPPED,
                    "Aborted: Client response stream closed before app execution completed");
            default -> runOf(rest, RunStatus.valueOf(word[0].toUpperCase(Locale.ROOT)));
        };
    }

    /// `run-7`, or `run-7 {"answer":""}` with these outputs.
    private static Response.Ran runOf(String text, RunStatus status) {
        var words = text.split(" ", 2);
        var ran = ran(words[0], status, "");
        return words.length == 1 ? ran : ran.with(Response.ChatMessage.NONE, outputs(words[1]));
    }

    /// The row of an app without a workflow.
    private static Response.Ran answered(String text, long tokens) {
        return Response.Ran.answered(outputs("{\"answer\":\"" + text + "\"}"), 1,
                new Response.ChatMessage("c", "m", Cost.of(tokens)));
    }

    // ── Look-ups ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// By the purpose or the symptom of the look-up, or by the row.
    private static Function<Question, LookUpResult> lookUps(Scene scene, String text) {
        var left = queues(text.contains(": ") ? text : "else: " + text);
        return question -> {
            var id = question.attempt().row().id();
            var key = Stream.of(question.purpose().name(), question.symptom().name(), id).filter(left::containsKey)
                    .findFirst().orElse("else");
            var own = left.getOrDefault(key, new ArrayDeque<>(List.of("absent")));
            return found(scene, (own.size() > 1 ? own.remove() : own.peek()).replace("own", "run-" + id));
        };
    }

    /// `running run-7 since 100`: since that second.
    static LookUpResult found(Scene scene, String text) {
        var words = text.split(" ");
        return switch (words[0]) {
            case "absent" -> ABSENT;
            case "dies" -> throw new IllegalStateException("the power fails");
            case "silent" -> new LookUpResult.Inconclusive(words.length > 1 ? response(text.substring(7)) : html(502));
            case "unanswered" -> new LookUpResult.Unanswered(true);
            case "empty" -> new LookUpResult.Unanswered(false);
            case "unlisted" -> new LookUpResult.Unlisted();
            case "listed" -> ABSENT.listed(run(words[1]));
            case "running" -> words.length == 2 ? running(words[1])
                    : running(words[1], since(Long.parseLong(words[3]), scene.world.now()));
            case "paused" -> new LookUpResult.Running(run(words[1]), RunStatus.PAUSED, Optional.empty(), Duration.ZERO);
            default -> ended((Response.Ran) response(text));
        };
    }

    // ── Facts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    private void check(Scene scene, String... facts) throws Exception {
        for (var each : List.of(scene.sent, scene.looked, scene.said, scene.stopped, scene.heard)) each.clear();
        scene.world.startAt(scene.world.now());
        var stop = List.of(facts).contains("dies") ? playUntilItDies(scene) : scene.play();
        var stopped = Stream.of(facts).anyMatch(fact -> fact.startsWith("stop "));
        assertEquals(stopped, stop.isPresent(), () -> name + ": " + stop);
        for (var fact : facts) {
            var words = fact.split(" ", 2);
            var what = name + ": " + fact;
            switch (words[0]) {
                case "dies" -> {}
                case "stop" -> assertEquals(words[1], stop.orElseThrow().exit().name(), what);
                case "hint" -> assertTrue(stop.orElseThrow().text().contains(words[1]), what);
                case "says" -> assertTrue(scene.said.toString().contains(words[1]), () -> what + scene.said);
                case "error" -> assertTrue(scene.error("a").contains(words[1]), what);
                case "passed" -> isIn(words[1], scene.world.passed(), what);
                case "took" -> isIn(words[1].split(" ")[1], scene.took(words[1].split(" ")[0]), what);
                case "start" -> isIn(words[1].split(" ")[1],
                        since(0, scene.sent.get(Integer.parseInt(words[1].split(" ")[0])).at()), what);
                default -> {
                    var values = String.join(" ", values(scene, words[0])).strip();
                    assertEquals(words[1], values.isEmpty() ? "none" : values, what);
                }
            }
        }
    }

    private static Optional<Stop> playUntilItDies(Scene scene) {
        assertThrows(IllegalStateException.class, scene::play);
        return Optional.empty();
    }

    /// Facts that are lists.
    private static List<String> values(Scene scene, String fact) throws IOException {
        return switch (fact) {
            case "sent" -> scene.ids();
            case "modes" -> scene.sent.stream().map(attempt -> attempt.mode().name()).toList();
            case "at" -> scene.sent.stream().map(attempt -> "" + since(0, attempt.at()).toSeconds()).toList();
            case "results" -> scene.resultIds();
            case "runs" -> scene.resultRuns();
            case "retry" -> scene.retryIds();
            case "late", "harvest", "run" -> Scene.texts("run", scene.log(fact));
            case "saw" -> Scene.texts("saw", scene.log("late"));
            case "looks" -> Scene.texts("saw", scene.log("look"));
            case "tasks" -> Scene.texts("task", scene.log("stop"));
            case "ended" -> Scene.texts("run", scene.log("end").stream().filter(end -> !end.has("crc32c")).toList());
            case "stopped" -> scene.stopped;
            case "known" -> scene.looked.stream().flatMap(look -> look.run().stream()).map(RunRef::id).toList();
            case "nodes" -> Scene.texts("node", scene.log("expired"));
            case "limits" -> Scene.texts("limit", scene.log("throttle"));
            case "answers" -> scene.results().stream().map(result -> result.at("/outputs/answer").asText()).toList();
            case "retries" -> Scene.texts("retry_count", scene.results());
            case "looked" -> List.of("" + scene.looked.size());
            case "users" -> List.of("" + scene.looked.stream().map(look -> look.attempt().user()).distinct().count());
            case "done" -> List.of("" + scene.tally.done());
            case "came" -> scene.log("end").stream().map(end -> end.path("outputs").toString())
                    .filter(outputs -> !outputs.isEmpty()).toList();
            case "settles" -> scene.tally.settlesAt().stream().map(time -> "" + since(0, time).toSeconds()).toList();
            case "busiest" -> List.of("" + scene.busiest);
            case "together" -> List.of("" + scene.mostLooks);
            case "said" -> List.of("" + scene.said.size());
            case "allDone" -> List.of("" + scene.tally.isAllDone());
            case "heard" -> scene.heard;
            default -> {
                // a misspelt fact would have no outcome, and `none` would always hold
                var ids = Files.readAllLines(scene.csv).stream().skip(1).map(row -> row.split(",")[0]).toList();
                if (!ids.contains(fact)) throw new IllegalArgumentException("neither a fact nor a row: " + fact);
                yield scene.outcomes(fact);
            }
        };
    }

    private static Duration since(long second, Instant now) {
        return Duration.between(NOON.plusSeconds(second), now);
    }

    /// `9`, or `9..10` without its end.
    static void isIn(String range, Duration time, String what) {
        var ends = range.split("\\.\\.");
        var from = seconds(Long.parseLong(ends[0]));
        boolean isIn = ends.length == 1 ? time.equals(from)
                : time.compareTo(from) >= 0 && time.compareTo(seconds(Long.parseLong(ends[1]))) < 0;
        assertTrue(isIn, () -> what + ": " + time);
    }
}
