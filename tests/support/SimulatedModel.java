package difyexec;

import difyexec.SimulatedRun.Version;
import difyexec.Simulator.*;
import difyexec.Simulator.Setup.Kind;

import module java.base;

import static difyexec.SimulatedJson.object;

/// The model behind an app without a workflow: what it says in one row, and when.
///
/// Words at the start of the question steer it, as those of the model that the recordings were made with:
///
/// - `sleep=4`: it thinks for so many seconds first
/// - `long=25 pause=200`: it says so many words, each so many milliseconds after the one before
/// - `say=Yes`, `empty`, `braces`, `think`: what it says
/// - `fail=invoke`, also `rate`, `auth`, `bad`, `conn`, `down`, `inner`, `cut` and `after:3`: how it fails
/// - `tool=current_time`, `tool`: an agent uses a tool first
/// - `react`: it keeps to the form of the ReAct strategy
/// - `ask`: the new agent asks a person
///
/// Without such words it says `Answer to: ` and the question: the first piece after half of the row's time, the last
/// one at its end.
final class SimulatedModel {
    private static final Pattern WORD = Pattern.compile(
            "(sleep|long|pause|say|fail|tool)=(\\S+)\\s*|(empty|braces|think|tool|react|ask)\\b\\s*");
    private static final int PIECE = 12;

    private SimulatedModel() {}

    /// What the model does next.
    sealed interface Step {
        /// How long after the step before.
        Duration after();

        /// A piece of the answer.
        record Say(Duration after, String text) implements Step {}
        /// A thought of the new agent that is no part of the answer.
        record Think(Duration after, String text) implements Step {}
        /// A call of a tool, which ends a round of an agent: the next one sees the observation.
        record Call(Duration after, String tool, String input, String observation) implements Step {}
    }

    /// @param rest     the time from the last step to the end
    /// @param failure  how the row ends, if not with an answer
    /// @param isAsked  whether the model is asked at all: moderation of the input answers alone
    /// @param isInForm whether an agent's answer is in the form of its strategy
    record Script(List<Step> steps, Duration rest, Usage usage, Optional<Failure> failure, boolean isAsked,
                  boolean isInForm) {
        private static Script unasked(List<Step> steps) {
            return new Script(steps, Duration.ZERO, new Usage(0, 0, false), Optional.empty(), false, true);
        }

        Duration total() {
            return steps.stream().map(Step::after).reduce(rest, Duration::plus);
        }

        /// How long the model thinks before it says anything.
        Duration thinking() {
            return steps.isEmpty() ? rest : steps.getFirst().after();
        }

        /// It fails after so many steps, and after this time.
        private Script failing(Failure failure, int after, Duration rest) {
            return new Script(steps.subList(0, Math.min(after, steps.size())), rest, usage, Optional.of(failure), true,
                    true);
        }
    }

    /// The tokens of a row, and their price as Dify writes it.
    record Usage(int prompt, int completion, boolean isPriced) {
        private static final BigDecimal PROMPT_PRICE = new BigDecimal("0.0010000"),
                COMPLETION_PRICE = new BigDecimal("0.0020000");

        static Usage of(String prompt, List<Step> steps, boolean isPriced) {
            int said = steps.stream().mapToInt(step -> step instanceof Step.Say(_, var text) ? text.length() : 0).sum();
            return new Usage(5 + tokens(prompt.length()), tokens(said), isPriced);
        }

        private static int tokens(int characters) {
            return (characters + 3) / 4;
        }

        /// That of a row that was stopped: the prices of the model, but no tokens.
        Usage none() {
            return new Usage(0, 0, isPriced);
        }

        int total() {
            return prompt + completion;
        }

        private BigDecimal price(int tokens, BigDecimal each) {
            return isPriced ? each.multiply(BigDecimal.valueOf(tokens)) : BigDecimal.ZERO.setScale(1);
        }

        BigDecimal promptPrice() {
            return price(prompt, PROMPT_PRICE);
        }

        BigDecimal completionPrice() {
            return price(completion, COMPLETION_PRICE);
        }

        BigDecimal totalPrice() {
            return promptPrice().add(completionPrice());
        }

        /// The unit prices: for the prompt, for the completion, and the unit.
        List<String> units() {
            return isPriced ? List.of("1", "2", "0.001") : List.of("0.0", "0.0", "0.0");
        }
    }

    /// A model's error, as a blocking response, as a stream's event and as the stored message report it.
    record Failure(String code, String message, String streamCode, int streamStatus, String streamMessage,
                   String stored) {
        private static Failure invalid(String message) {
            return new Failure("invalid_param", message, "invalid_param", 400, message, message);
        }

        private static Failure requested(String message) {
            return new Failure("completion_request_error", message, "completion_request_error", 400, message, message);
        }

        /// 1.9.2 hides the texts of all errors that the model's provider reports, except that of a wrong key.
        private static Failure hidden() {
            return new Failure("completion_request_error", "Completion request failed.", "completion_request_error",
                    400, null, "Internal Server Error, please contact support.");
        }

        private static Failure rateLimited(String message) {
            return new Failure("completion_request_error", message, "rate_limit_error", 429, message, message);
        }

        /// An error that the model's plugin does not know the kind of.
        private static Failure unknown(String message) {
            var json = SimulatedJson.SPACED.json(object("error_type", "InvokeError", "message", message,
                    "args", Map.of()));
            var request = UUID.randomUUID().toString().replace("-", "").substring(0, 10);
            return new Failure("invalid_param", "req_id: " + request + " PluginInvokeError: " + json, "invalid_param",
                    400, json, json);
        }

        private static Failure ofAgent(String message) {
            return requested(message + " (agent_run_id=run-" + UUID.randomUUID().toString().replace("-", "") + ")");
        }

        static Failure of(String kind, String message, Kind app, Version version) {
            if (app == Kind.AGENT) return ofAgent(message);
            boolean isHidden = !version.hasWorker();
            return switch (kind) {
                case "rate" -> isHidden ? hidden() : rateLimited(message);
                case "bad", "conn", "down" -> isHidden ? hidden() : requested(message);
                case "auth" -> requested("Incorrect API key provided");
                case "inner" -> invalid("the plugin is gone-500");
                case "cut" -> invalid("Request to Plugin Daemon Service failed-500");
                default -> unknown(message);
            };
        }
    }

    // ── A row ───────────────────────────────────────────────────────────────────────────────────────────────────────

    static Script script(Kind app, Version version, String prompt, Fate fate, Setup.Traits traits) {
        if (fate.fault() == Fault.PRESET) return preset();
        var words = new HashMap<String, String>();
        var matcher = WORD.matcher(prompt);
        while (matcher.lookingAt()) {
            words.put(matcher.group(1) != null ? matcher.group(1) : matcher.group(3),
                    matcher.group(1) != null ? matcher.group(2) : "");
            matcher.region(matcher.end(), prompt.length());
        }
        boolean isAsking = app == Kind.AGENT && (words.containsKey("ask") || fate.fault() == Fault.PAUSE);
        if (isAsking) return Script.unasked(List.of(new Step.Say(fate.latency(), "Which one?")));
        var said = said(words, prompt, fate, traits);
        var steps = new ArrayList<>(tools(app, words, said.isEmpty() ? fate.latency() : said.getFirst().after()));
        steps.addAll(steps.isEmpty() || said.isEmpty() ? said : withoutThinking(said));
        boolean isInForm = !traits.isReact() || words.containsKey("react");
        var left = steps.stream().map(Step::after).reduce(fate.latency(), Duration::minus);
        boolean isTimed = words.containsKey("sleep") || words.containsKey("long") || left.isNegative();
        var script = new Script(List.copyOf(steps), isTimed ? Duration.ZERO : left,
                Usage.of(prompt, steps, traits.isPriced()), Optional.empty(), true, isInForm);
        if (words.containsKey("fail")) return failing(script, words.get("fail"), app, version);
        int after = fate.die() % 2 * steps.size() / 2; // half of the failures come before the first piece
        var rest = fate.latency().dividedBy(2);
        return switch (fate.fault()) {
            case FAIL -> script.failing(Failure.of("bad", "the model refused this input", app, version), after, rest);
            case FLAKY -> script.failing(Failure.of("rate", "[openai] Rate Limit Error, 429 Too Many Requests", app,
                    version), after, rest);
            case TRUNCATE -> new Script(script.steps().subList(0, Math.min(1, steps.size())), script.rest(),
                    new Usage(0, 0, false), Optional.empty(), true, isInForm);
            default -> script;
        };
    }

    private static Script failing(Script script, String kind, Kind app, Version version) {
        var late = Pattern.compile("after:(\\d+)").matcher(kind);
        int after = late.matches() ? Integer.parseInt(late.group(1)) : kind.equals("cut") ? 1 : 0;
        var text = app == Kind.AGENT ? "fake agent error (" + kind + ")"
                : "fake model error (" + (late.matches() ? "invoke" : kind) + ")";
        return script.failing(Failure.of(kind, text, app, version), after, Duration.ZERO);
    }

    /// Moderation of the input says the preset answer letter by letter.
    private static Script preset() {
        return Script.unasked(SimulatedMessage.PRESET.codePoints().mapToObj(Character::toString)
                .<Step>map(letter -> new Step.Say(Duration.ofMillis(12), letter)).toList());
    }

    private static List<Step> said(Map<String, String> words, String prompt, Fate fate, Setup.Traits traits) {
        if (words.containsKey("long")) return IntStream.range(0, Integer.parseInt(words.get("long")))
                .<Step>mapToObj(i -> new Step.Say(Duration.ofMillis(Long.parseLong(words.getOrDefault("pause", "0"))),
                        "word" + i + " ")).toList();
        var pieces = pieces(words, prompt, fate, traits);
        var thinking = words.containsKey("sleep") ? Duration.ofSeconds(Integer.parseInt(words.get("sleep")))
                : fate.latency().dividedBy(2);
        var each = words.containsKey("sleep") ? Duration.ZERO
                : fate.latency().dividedBy(2).dividedBy(Math.max(1, pieces.size() - 1));
        return IntStream.range(0, pieces.size())
                .<Step>mapToObj(i -> new Step.Say(i == 0 ? thinking : each, pieces.get(i))).toList();
    }

    private static List<String> pieces(Map<String, String> words, String prompt, Fate fate, Setup.Traits traits) {
        if (words.containsKey("empty") || fate.fault() == Fault.EMPTY) return List.of();
        var text = words.containsKey("braces") ? "  Dear {{name}}, {\"a\":{\"b\":1}}  \n"
                : words.getOrDefault("say", "Answer to: " + prompt);
        if (traits.isReact()) return Stream.of(cut(words.containsKey("react") ? " I know.\n " : text, 1).stream(),
                words.containsKey("react") ? Stream.of("", "", "", text) : Stream.<String>of())
                .flatMap(pieces -> pieces).toList();
        boolean isThinking = words.containsKey("think") && !words.containsKey("tool");
        return cut(isThinking ? "<think>let me see</think>\n" + text : text, PIECE);
    }

    private static List<String> cut(String text, int length) {
        var pieces = new ArrayList<String>();
        for (int from = 0, to; from < text.length(); from = to) {
            to = text.offsetByCodePoints(from, Math.min(length, text.codePointCount(from, text.length())));
            pieces.add(text.substring(from, to));
        }
        return pieces;
    }

    /// What an agent does before it answers, the first of it after this time.
    private static List<Step> tools(Kind app, Map<String, String> words, Duration after) {
        if (!words.containsKey("tool")) return List.of();
        if (app == Kind.AGENT_CHAT) return List.of(new Step.Say(after, "I ask a tool. "), new Step.Call(Duration.ZERO,
                words.get("tool"), "{\"" + words.get("tool") + "\": {}}",
                "{\"" + words.get("tool") + "\": \"2026-11-30 15:42:31\"}"));
        return app == Kind.AGENT ? List.of(new Step.Think(after, "let me see"), new Step.Call(Duration.ZERO, "clock",
                "{}", "12:00")) : List.of();
    }

    private static List<Step> withoutThinking(List<Step> said) {
        var first = (Step.Say) said.getFirst();
        return Stream.concat(Stream.of(new Step.Say(Duration.ZERO, first.text())), said.stream().skip(1)).toList();
    }

    /// As Dify stores an answer: without blanks around it, and with a name in single braces.
    static String stored(String answer) {
        return answer.strip().replaceAll("\\{\\{(\\w+)}}", "{$1}");
    }
}
