///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Makes tests/recorded/ from the full recordings: ./jbang tests/Recorded.java FOLDER tests/recorded
//DEPS com.fasterxml.jackson.core:jackson-databind:2.20.1

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.joining;

/// The recorded exchanges with two real Dify servers, reduced to what can be compared with another server.
///
/// `tests/recorded/<version>.jsonl` has a line for each request of each case, in the order of the recording; answers
/// are [Shape]s, which stand once each in `shapes.txt` and are named by their line there, from 1. An id that a request
/// took from another answer of its case stands as `@3/data/id@`: the value at `/data/id` in the answer to number 3; a
/// stream counts as the list of its events.
final class Recorded {
    private static final ObjectMapper JSON = new ObjectMapper();

    private Recorded() {}

    /// One request and what a real server answered.
    ///
    /// @param number  its place in the case, where what was done to the server has a place too
    /// @param body    the JSON sent, or text; null for none. `raw`: the whole request as it went over the wire
    /// @param status  0: no answer came
    /// @param type    the answer's content type, or empty
    /// @param ours    Dify itself answered: it says its version
    /// @param end     how a stream ended: by `server` or `client`, or `cut`; empty for other answers
    /// @param answer  the shape of the whole answer, or of each event of a stream
    /// @param tail    only the last event of the stream was recorded
    record Exchange(String version, String name, int number, String about, String method, String path,
                    Map<String, String> headers, JsonNode body, String raw, int status, String type, boolean ours,
                    String end, List<String> answer, boolean tail) {
        boolean isStream() {
            return !end.isEmpty();
        }

        boolean startsRun() {
            return method.equals("POST") && path.matches("/v1/workflows/([^/]+/)?run(\\?.*)?");
        }

        /// Who starts a run, or nobody.
        String user() {
            return body == null ? "nobody" : body.path("user").asText("nobody");
        }

        /// Of a run's detail or the log.
        boolean isAsking() {
            return method.equals("GET") && path.startsWith("/v1/workflows/");
        }

        @Override
        public String toString() {
            return version + " " + name + "[" + number + "] " + about;
        }
    }

    // ── The shape of an answer ──────────────────────────────────────────────────────────────────────────────────────

    /// JSON with types in place of values: `{created_at:i,error:n,status:"failed"}`. Keys are sorted; a list has the
    /// shapes that occur in it; what decides how a client acts keeps its value, without what changes from run to run.
    static final class Shape {
        private static final Set<String> KEPT = Set.of("event", "status", "error", "code", "message", "result",
                "node_id", "node_type", "mode", "page", "limit", "has_more", "retry_index",
                "from_variable_selector", "reason",
                "transfer_method", "extension", "mime_type", "name", "filename", "errors", "error_strategy", "version");
        private static final Set<String> TEXTS = Set.of("inputs", "outputs");

        /// What changes from run to run, and what stands for it.
        private static final Map<Pattern, String> VARIABLE = Map.of(
                Pattern.compile("\\p{XDigit}{8}(-\\p{XDigit}{4}){3}-\\p{XDigit}{12}"), "<id>",
                Pattern.compile("127\\.0\\.0\\.1:\\d{4,5}"), "<host>",
                Pattern.compile("exceeded: \\d+\\.\\d+s > "), "exceeded: <seconds> > ",
                Pattern.compile("input_value=.*?, input_type="), "input_value=…, input_type=",
                Pattern.compile("\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{6}"), "<time>");

        static String of(JsonNode value) {
            return of("", value);
        }

        private static String of(String key, JsonNode value) {
            if (value.isObject()) return value.properties().stream().sorted(Map.Entry.comparingByKey())
                    .map(field -> field.getKey() + ":" + of(field.getKey(), field.getValue()))
                    .collect(joining(",", "{", "}"));
            if (value.isArray()) return value.valueStream().map(each -> of(key, each)).distinct()
                    .collect(joining("|", "[", "]"));
            if (value.isNull()) return "n";
            if (KEPT.contains(key)) return normal(value.toString());
            if (value.isTextual()) return TEXTS.contains(key) && value.asText().startsWith("{")
                    ? "text" + of(json(value.asText())) : "s";
            return value.isBoolean() ? "b" : value.isIntegralNumber() ? "i" : "f";
        }

        private static String normal(String text) {
            for (var each : VARIABLE.entrySet()) text = each.getKey().matcher(text).replaceAll(each.getValue());
            return text;
        }

        /// The shapes of an answer as text: of the whole, or of each event of a stream.
        static List<String> of(String type, String body) {
            if (type.startsWith("text/event-stream")) return events(body).stream()
                    .map(event -> event.isTextual() ? event.asText() : of(event)).toList();
            if (type.startsWith("application/json") && !body.isEmpty()) return List.of(of(json(body)));
            var title = Pattern.compile("<title>(.*?)</title>").matcher(body);
            return title.find() ? List.of("page " + title.group(1)) : List.of();
        }
    }

    /// The whole events of a stream; a ping is the text `ping`.
    static List<JsonNode> events(String stream) {
        var events = new ArrayList<JsonNode>();
        for (int from = 0, to; (to = stream.indexOf("\n\n", from)) >= 0; from = to + 2) {
            var block = stream.substring(from, to);
            if (block.startsWith("data: ")) events.add(json(block.substring(6)));
            else if (block.equals("event: ping")) events.add(JSON.getNodeFactory().textNode("ping"));
        }
        return events;
    }

    /// An answer's JSON to point into: a stream is the list of its events without pings.
    static JsonNode tree(String type, String body) {
        if (type.startsWith("text/event-stream")) {
            var list = JSON.createArrayNode();
            events(body).stream().filter(JsonNode::isObject).forEach(list::add);
            return list;
        }
        return type.startsWith("application/json") && !body.isEmpty() ? json(body) : JSON.missingNode();
    }

    static JsonNode json(String text) {
        try {
            return JSON.readTree(text);
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    // ── Reading the reduced copy ────────────────────────────────────────────────────────────────────────────────────

    /// The exchanges of a version by case, from the class path or the checkout.
    static Map<String, List<Exchange>> cases(String version) throws IOException {
        var shapes = lines("shapes.txt");
        var cases = new LinkedHashMap<String, List<Exchange>>();
        for (var line : lines(version + ".jsonl")) {
            var exchange = exchange(version, json(line), shapes);
            cases.computeIfAbsent(exchange.name(), _ -> new ArrayList<>()).add(exchange);
        }
        return cases;
    }

    private static Exchange exchange(String version, JsonNode line, List<String> shapes) {
        var headers = new LinkedHashMap<String, String>();
        line.path("headers").properties().forEach(each -> headers.put(each.getKey(), each.getValue().asText()));
        var answer = line.path("answer").valueStream().map(each -> shapes.get(each.asInt() - 1)).toList();
        return new Exchange(version, line.path("case").asText(), line.path("n").asInt(), line.path("about").asText(),
                line.path("method").asText(), line.path("path").asText(), headers, line.get("body"),
                line.path("raw").asText(), line.path("status").asInt(), line.path("type").asText(),
                line.path("ours").asBoolean(true), line.path("end").asText(), answer, line.path("tail").asBoolean());
    }

    private static List<String> lines(String name) throws IOException {
        try (var packed = Recorded.class.getResourceAsStream("/recorded/" + name)) {
            if (packed != null) return new String(packed.readAllBytes(), UTF_8).lines().toList();
        }
        return Files.readAllLines(Stream.of("tests/recorded", "recorded").map(Path::of).filter(Files::isDirectory)
                .findFirst().orElseThrow(() -> new IllegalStateException("no tests/recorded here")).resolve(name));
    }

    // ── Making it ───────────────────────────────────────────────────────────────────────────────────────────────────

    static void main(String... args) throws IOException {
        Path from = Path.of(args[0]), to = Files.createDirectories(Path.of(args[1]));
        var shapes = new LinkedHashMap<String, Integer>();
        for (var version : List.of("1.9.2", "1.14.2")) {
            var lines = new ArrayList<String>();
            try (var files = Files.list(from.resolve(version))) {
                for (var file : files.filter(path -> path.toString().endsWith(".json")).sorted().toList())
                    new Reduction(json(Files.readString(file)), shapes).lines()
                            .forEach(line -> lines.add(line.toString()));
            }
            Files.write(to.resolve(version + ".jsonl"), lines);
        }
        Files.write(to.resolve("shapes.txt"), shapes.keySet());
    }

    /// Makes the lines of one case; `shapes` grows.
    private static final class Reduction {
        private static final Pattern ID = Pattern.compile(
                "\\p{XDigit}{8}(-\\p{XDigit}{4}){3}-\\p{XDigit}{12}|form-token-\\d-masked");
        private final String name;
        private final List<JsonNode> exchanges;
        private final List<JsonNode> trees;
        private final Map<String, Integer> shapes;

        Reduction(JsonNode recording, Map<String, Integer> shapes) {
            this.name = recording.path("case").asText();
            this.exchanges = recording.path("exchanges").valueStream().toList();
            this.trees = exchanges.stream().map(each -> each.path("response")).map(Reduction::answer)
                    .map(answer -> tree(answer.type(), answer.body())).toList();
            this.shapes = shapes;
        }

        List<ObjectNode> lines() {
            return IntStream.range(0, exchanges.size()).filter(n -> exchanges.get(n).has("request"))
                    .mapToObj(this::line).toList();
        }

        private ObjectNode line(int number) {
            JsonNode request = exchanges.get(number).path("request"), response = exchanges.get(number).path("response");
            var line = JSON.createObjectNode().put("case", name).put("n", number);
            if (exchanges.get(number).has("about")) line.put("about", exchanges.get(number).path("about").asText());
            if (request.has("raw")) line.put("raw", request.path("raw").asText());
            else asked(line, request, number);
            return answered(line, response);
        }

        private void asked(ObjectNode line, JsonNode request, int number) {
            line.put("method", request.path("method").asText())
                    .put("path", referring(request.path("path").asText(), number));
            var headers = line.putObject("headers");
            request.path("headers").properties().forEach(each -> headers.set(each.getKey(), each.getValue()));
            if (!request.path("body").isMissingNode() && !request.path("body").isNull())
                line.set("body", json(referring(request.path("body").toString(), number)));
        }

        private ObjectNode answered(ObjectNode line, JsonNode response) {
            var answer = answer(response);
            if (response.has("status")) line.put("status", response.path("status").asInt()).put("type", answer.type());
            if (!answer.ours()) line.put("ours", false);
            var end = response.path("ended").asText();
            if (answer.type().startsWith("text/event-stream")) line.put("end", end.startsWith("client") ? "client"
                    : end.startsWith("Incomplete") ? "cut" : "server");
            if (answer.tail()) line.put("tail", true);
            var list = line.putArray("answer");
            for (var shape : Shape.of(answer.type(), answer.body()))
                list.add(shapes.computeIfAbsent(shape, _ -> shapes.size() + 1));
            return line;
        }

        private record Answer(String type, String body, boolean ours, boolean tail) {}

        private static Answer answer(JsonNode response) {
            var left = "[earlier events left out] ";
            String head = response.path("raw_head").asText(), body = response.path("body").asText();
            var type = response.at("/headers/Content-Type").asText(header(head, "Content-Type"));
            body = body.replaceAll("(?s)data: [^\n]*\\[… \\d+ characters …].*", ""); // cut by the recorder
            if (head.contains("chunked")) body = body.replaceAll("(^|\r\n)\\p{XDigit}+\r\n", "");
            boolean ours = response.path("status").asInt() == 0 || response.at("/headers").has("X-Version")
                    || head.contains("X-Version");
            return new Answer(type, body.startsWith(left) ? body.substring(left.length()) + "\n\n" : body, ours,
                    body.startsWith(left));
        }

        private static String header(String head, String name) {
            return head.lines().filter(line -> line.startsWith(name + ": "))
                    .map(line -> line.substring(name.length() + 2)).findFirst().orElse("");
        }

        /// A request's text with references in place of the ids that answers of this case gave.
        private String referring(String text, int number) {
            return ID.matcher(text).replaceAll(match -> Matcher.quoteReplacement(sources(number)
                    .flatMap(n -> pointer(trees.get(n), "", match.group()).map(at -> "@" + n + at + "@").stream())
                    .findFirst().orElse(match.group())));
        }

        /// Where an id may come from: from what was posted, at any time, or from what was asked before.
        private Stream<Integer> sources(int number) {
            var all = IntStream.range(0, trees.size()).filter(n -> n != number).boxed().toList();
            return Stream.concat(all.stream().filter(this::isPost), all.stream().filter(n -> n < number
                    && !isPost(n) && !trees.get(n).isArray()));
        }

        private boolean isPost(int number) {
            return exchanges.get(number).at("/request/method").asText().equals("POST");
        }

        private static Optional<String> pointer(JsonNode tree, String at, String value) {
            if (tree.isTextual()) return tree.asText().equals(value) ? Optional.of(at) : Optional.empty();
            if (tree.isArray()) return IntStream.range(0, tree.size()).boxed()
                    .flatMap(i -> pointer(tree.get(i), at + "/" + i, value).stream()).findFirst();
            return tree.properties().stream()
                    .flatMap(field -> pointer(field.getValue(), at + "/" + field.getKey(), value).stream()).findFirst();
        }
    }
}
