package difyexec;

import com.fasterxml.jackson.databind.*;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.joining;
import static java.util.stream.Collectors.toMap;

/// The exchanges with four real Dify servers in `tests/recorded/`, whose README describes them.
final class Recorded {
    static final List<String> VERSIONS = List.of("1.9.2", "1.14.2", "1.16.0", "1.16.1");

    private Recorded() {}

    // ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The exchanges of a version with workflows and chatflows by case, in the order of their names.
    static Map<String, List<Exchange>> cases(String version) {
        return exchanges(version, recording -> !isOfOther(recording), true);
    }

    /// Those with apps without a workflow: chat, agent-chat, agent and completion.
    static Map<String, List<Exchange>> casesOfOthers(String version) {
        return exchanges(version, Recorded::isOfOther, true);
    }

    /// What was written down in the same cases without a request: what the model saw, or the message in the database.
    static Map<String, List<Exchange>> notesOfOthers(String version) {
        return exchanges(version, Recorded::isOfOther, false);
    }

    private static boolean isOfOther(JsonNode recording) {
        return recording.path("case").asText().matches("(chat|agent|completion|llm)_.*");
    }

    /// A note without a request keeps its number, but is not an exchange.
    private static Map<String, List<Exchange>> exchanges(String version, Predicate<JsonNode> which, boolean isAsked) {
        return recordings(version).stream().filter(which).collect(toMap(recording -> recording.path("case").asText(),
                recording -> all(version, recording).filter(each -> each.request().isMissingNode() != isAsked).toList(),
                (one, _) -> one, LinkedHashMap::new));
    }

    private static Stream<Exchange> all(String version, JsonNode recording) {
        var all = recording.path("exchanges");
        return IntStream.range(0, all.size()).mapToObj(number -> new Exchange(version, recording.path("case").asText(),
                number, all.get(number).path("about").asText(), all.get(number).path("request"),
                all.get(number).path("response")));
    }

    /// From the jar that JBang packs, or a folder.
    private static List<JsonNode> recordings(String version) {
        var tests = Path.of(URI.create(Recorded.class.getProtectionDomain().getCodeSource().getLocation().toString()));
        try {
            if (Files.isDirectory(tests)) return read(unpacked(tests).resolve(version));
            try (var jar = FileSystems.newFileSystem(tests)) {
                return read(jar.getPath("recorded", version));
            }
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    /// Next to the compiled classes, or in the checkout: the tests were started in it, or in its `tests`.
    private static Path unpacked(Path classes) {
        return Stream.of(classes.resolve("recorded"), Path.of("tests/recorded"), Path.of("recorded"))
                .filter(Files::isDirectory).findFirst()
                .orElseThrow(() -> new IllegalStateException("no tests/recorded here: start in the checkout"));
    }

    private static List<JsonNode> read(Path folder) throws IOException {
        var recordings = new ArrayList<JsonNode>();
        try (var files = Files.newDirectoryStream(folder, "*.json")) {
            for (var file : StreamSupport.stream(files.spliterator(), false).sorted().toList())
                recordings.add(Given.tree(Files.readString(file)));
        }
        return recordings;
    }

    // ── An exchange ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The side that ended an answer or the wait for one; `CUT`: the connection broke.
    enum End { SERVER, CLIENT, CUT }

    /// One request and the answer of a real server, both as recorded.
    ///
    /// @param number its place in the case, where actions on the server have a place too
    record Exchange(String version, String name, int number, String about, JsonNode request, JsonNode response) {
        private static final Pattern RUN = Pattern.compile("POST \\S*/workflows/([^/]+/)?run/?(\\?\\S*)?( .*)?");
        private static final String TAIL = "[earlier events left out] ";

        String method() {
            return request.path("method").asText();
        }

        String path() {
            return request.path("path").asText();
        }

        /// The whole request as sent over the wire, if this mattered, or empty.
        String raw() {
            return request.path("raw").asText();
        }

        /// `POST /v1/workflows/run`
        String line() {
            return raw().isEmpty() ? method() + " " + path() : raw().lines().findFirst().orElse("");
        }

        boolean isRun() {
            return RUN.matcher(line()).matches();
        }

        /// A question to a chatflow or a chat, which starts a run or a row.
        boolean isQuestion() {
            return line().equals("POST /v1/chat-messages");
        }

        /// A request that starts something.
        boolean isStart() {
            return isRun() || isQuestion() || line().equals("POST /v1/completion-messages");
        }

        /// A request for a run's detail or the log, or for the conversations and messages of a chatflow.
        boolean isAsking() {
            return method().equals("GET") && path().matches("/v1/(workflows/|conversations|messages).*");
        }

        /// The user who starts a run, or empty.
        String user() {
            return request.at("/body/user").asText("nobody");
        }

        /// 0 if no answer came.
        int status() {
            return response.path("status").asInt();
        }

        /// Whether the answer was recorded byte for byte.
        boolean isRaw() {
            return response.has("raw_head");
        }

        /// The headers of the answer, except those that frame its body.
        Map<String, String> headers() {
            var headers = new LinkedHashMap<String, String>();
            response.path("headers").properties().forEach(each -> headers.put(each.getKey(), each.getValue().asText()));
            response.path("raw_head").asText().lines().skip(1).map(line -> line.split(": ", 2))
                    .forEach(header -> headers.put(header[0], header[1]));
            headers.keySet().removeIf(name -> name.matches("(?i)content-length|transfer-encoding"));
            return headers;
        }

        /// The answer's content type, or empty.
        String type() {
            return headers().getOrDefault("Content-Type", "");
        }

        boolean isStream() {
            return type().startsWith("text/event-stream");
        }

        /// Whether Dify itself answered: then there is its version.
        boolean isOurs() {
            return status() == 0 || headers().containsKey("X-Version");
        }

        End end() {
            var end = response.path(status() == 0 ? "none" : "ended").asText();
            return end.startsWith("client left") ? End.CLIENT
                    : end.startsWith("IncompleteRead") || end.startsWith("connection ended") ? End.CUT : End.SERVER;
        }

        private String body() {
            return response.path("body").asText();
        }

        /// The answer's body without chunk sizes, notes of the recorder and events shortened by it.
        String text() {
            if (isTail()) return body().substring(TAIL.length()) + "\n\n";
            var whole = isStream() ? body().replaceAll("data: .*\\[… \\d+ characters …].*\n\n", "") : body();
            return response.path("raw_head").asText().contains("chunked")
                    ? whole.replaceAll("(^|\r\n)\\p{XDigit}+\r\n", "") : whole;
        }

        /// Whether only the last event of the stream was recorded.
        boolean isTail() {
            return body().startsWith(TAIL);
        }

        /// Whether raw bytes end before their length, or their last chunk, says so.
        boolean isShortened() {
            if (!isRaw()) return false;
            var length = Pattern.compile("(?i)content-length: (\\d+)").matcher(response.path("raw_head").asText());
            return length.find() ? body().getBytes(UTF_8).length < Integer.parseInt(length.group(1))
                    : !body().endsWith("0\r\n\r\n");
        }

        /// The shape of the whole answer, or of each event of a stream.
        List<String> shapes() {
            return Shape.of(type(), text());
        }

        @Override
        public String toString() {
            return version + " " + name + "[" + number + "] " + about;
        }
    }

    // ── The shape of an answer ──────────────────────────────────────────────────────────────────────────────────────

    /// JSON with types instead of values: `{created_at:i,error:n,status:"failed"}`. Keys are sorted; a list has the
    /// shapes that occur in it. Values that decide how a client acts are kept, except parts that vary between runs.
    static final class Shape {
        private static final Set<String> KEPT = Set.of("event", "status", "error", "code", "message", "result",
                "node_id", "node_type", "mode", "page", "limit", "has_more", "retry_index",
                "from_variable_selector", "reason",
                "transfer_method", "extension", "mime_type", "name", "filename", "errors", "error_strategy", "version");
        private static final Set<String> TEXTS = Set.of("inputs", "outputs");
        /// Only their presence matters.
        private static final Set<String> EMPTY_OR_NOT = Set.of("answer", "provider_response_latency", "thought",
                "observation", "tool", "tool_input", "introduction");

        /// Replacements for everything that differs from run to run.
        private static final Map<Pattern, String> VARIABLE = Map.of(
                Pattern.compile("\\p{XDigit}{8}(-\\p{XDigit}{4}){3}-\\p{XDigit}{12}"), "<id>",
                Pattern.compile("127\\.0\\.0\\.1:\\d{4,5}"), "<host>",
                Pattern.compile("exceeded: \\d+\\.\\d+s > "), "exceeded: <seconds> > ",
                Pattern.compile("req_id: \\p{XDigit}{10} "), "req_id: <id> ",
                Pattern.compile("agent_run_id=run-\\p{XDigit}{32}"), "agent_run_id=<id>",
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
            if (EMPTY_OR_NOT.contains(key) && List.of("", "0.0").contains(value.asText())) return value.toString();
            if (KEPT.contains(key)) return normal(value.toString());
            if (value.isTextual()) return TEXTS.contains(key) && value.asText().startsWith("{")
                    ? "text" + of(Given.tree(value.asText())) : "s";
            return value.isBoolean() ? "b" : value.isIntegralNumber() ? "i" : "f";
        }

        private static String normal(String text) {
            for (var each : VARIABLE.entrySet()) text = each.getKey().matcher(text).replaceAll(each.getValue());
            return text;
        }

        /// These without pings after the first event, and without events that repeat the one before, or the two before:
        /// how many pieces an answer has depends on times.
        static List<String> condensed(List<String> shapes) {
            var condensed = new ArrayList<String>();
            for (var shape : shapes) {
                int size = condensed.size();
                boolean isPing = shape.equals("ping") && condensed.stream().anyMatch(each -> !each.equals("ping"));
                if (isPing || size > 0 && condensed.getLast().equals(shape)) continue;
                condensed.add(shape);
                boolean isPair = size >= 3 && condensed.subList(size - 1, size + 1)
                        .equals(condensed.subList(size - 3, size - 1));
                if (isPair) condensed.subList(size - 1, size + 1).clear();
            }
            return condensed;
        }

        /// The shapes of an answer as text: of the whole, or of each event of a stream.
        static List<String> of(String type, String body) {
            if (type.startsWith("text/event-stream")) return events(body).stream()
                    .map(event -> event.isTextual() ? event.asText() : of(event)).toList();
            if (type.startsWith("application/json") && !body.isEmpty()) return List.of(of(Given.tree(body)));
            var title = Pattern.compile("<title>(.*?)</title>").matcher(body);
            return title.find() ? List.of("page " + title.group(1)) : List.of();
        }
    }

    /// The complete events of a stream; a ping is the text `ping`.
    static List<JsonNode> events(String stream) {
        var events = new ArrayList<JsonNode>();
        for (int from = 0, to; (to = stream.indexOf("\n\n", from)) >= 0; from = to + 2) {
            var block = stream.substring(from, to);
            if (block.startsWith("data: ")) events.add(Given.tree(block.substring(6)));
            else if (block.equals("event: ping")) events.add(Given.JSON.getNodeFactory().textNode("ping"));
        }
        return events;
    }

    /// An answer as JSON for pointers: a stream is the list of its events without pings.
    static JsonNode tree(String type, String body) {
        if (type.startsWith("text/event-stream")) {
            var list = Given.JSON.createArrayNode();
            events(body).stream().filter(JsonNode::isObject).forEach(list::add);
            return list;
        }
        return type.startsWith("application/json") && !body.isEmpty() ? Given.tree(body) : Given.JSON.missingNode();
    }

    // ── Ids that answers gave ───────────────────────────────────────────────────────────────────────────────────────

    private static final Pattern ID = Pattern.compile(
            "\\p{XDigit}{8}(-\\p{XDigit}{4}){3}-\\p{XDigit}{12}|form-token-(\\d-)?masked");

    /// A case with `@3/data/id@` in its requests for the id that the answer to number 3 has at `/data/id`; a stream
    /// counts as the list of its events.
    static List<Exchange> linked(List<Exchange> exchanges) {
        var sources = exchanges.stream().map(each -> new Source(each.number(), each.method().equals("POST"),
                tree(each.type(), each.text()))).toList();
        return exchanges.stream().map(each -> linked(each, sources)).toList();
    }

    private static Exchange linked(Exchange exchange, List<Source> all) {
        var sources = Stream.concat(all.stream().filter(Source::isPosted),
                        all.stream().filter(source -> !source.isPosted() && source.number() < exchange.number()
                                && !source.answer().isArray())) // no stream that was joined later
                .filter(source -> source.number() != exchange.number()).toList();
        var request = ID.matcher(exchange.request().toString()).replaceAll(id -> Matcher.quoteReplacement(
                sources.stream().flatMap(source -> source.reference(id.group()).stream()).findFirst()
                        .orElse(id.group())));
        return new Exchange(exchange.version(), exchange.name(), exchange.number(), exchange.about(), Given.tree(request),
                exchange.response());
    }

    /// An answer that an id may come from: a POST at any time, any other request only before.
    private record Source(int number, boolean isPosted, JsonNode answer) {
        Optional<String> reference(String id) {
            return pointer(answer, "", id).map(at -> "@" + number + at + "@");
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
