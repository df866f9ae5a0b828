package difyexec;

import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.net.httpserver.*;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// A batch that some version of the tool left in `tests/batches`, what its server knew, and what the next commands of
/// that version made of it. [FreezeBatches] makes such folders.
///
/// - `batch.json` describes the batch and what follows, see [#follow].
/// - `server.json` has Dify's records of the runs, as its API shows them. A [Server] answers with them.
/// - All other files are those of the batch.
///
/// The last list of commands is empty, for what the batch shows as it was left.
///
/// If a documented rule has changed since, `later` in `batch.json` has the rule and the outcome with it, and `inForce`
/// says whether the tool follows it.
///
/// Times in the files are moved when the batch is continued, so that its last event has just the age that the
/// description names. Their texts keep their lengths, because the log contains sizes of the results.
record FrozenBatch(Path home, JsonNode description) {
    static final String DESCRIPTION = "batch.json", RECORDS = "server.json";
    static final String KEY = "app-s3cr3t-0f-the-test";
    private static final Pattern TIME = Pattern.compile("(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d)(?=[.Z])");
    private static final Pattern EPOCH = Pattern.compile(
            "(\"(?:created_at|finished_at|updated_at|expiration_time)\" ?: ?)(\\d{10})\\b");
    /// Figures that `status --json` has for a batch, and that depend on no clock.
    private static final List<String> FIGURES = List.of("total", "succeeded", "partial", "failed", "paused", "unknown",
            "pending", "total_tokens", "cost", "in_flight", "late", "lost_results", "unread_lines", "ids_not_in_input",
            "changed_in_input", "runs_without_price", "forms_expired");
    /// Columns of an export that have what a run yielded.
    private static final Pattern YIELDED = Pattern.compile("output\\..*|tokens|price|currency");
    private static final Pattern UUID = Pattern.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}");
    /// What a row's text asks the simulator for; a row that is sent again meets none of it.
    private static final Pattern FAULT = Pattern.compile("\\[[a-z0-9 -]+!?] ?");

    static FrozenBatch of(Path home) throws IOException {
        return new FrozenBatch(home, Given.JSON.readTree(home.resolve(DESCRIPTION).toFile()));
    }

    /// The batches of all versions in a folder such as `tests/batches`.
    static List<FrozenBatch> in(Path folder) throws IOException {
        var all = new ArrayList<FrozenBatch>();
        try (var found = Files.find(folder, 3, (path, _) -> path.endsWith(DESCRIPTION))) {
            for (var path : found.sorted().toList()) all.add(of(path.getParent()));
        }
        return all;
    }

    @Override
    public String toString() {
        return home.getParent().getFileName() + "/" + home.getFileName();
    }

    String text(String field) {
        return description.path(field).asText();
    }

    /// The commands that follow, each list with another age of the batch.
    List<JsonNode> next() {
        return description.path("next").valueStream().toList();
    }

    /// Runs the tool, in any process.
    @FunctionalInterface interface Tool {
        Said run(Map<String, String> settings, String... args) throws Exception;
    }

    /// The exit code of a command, and its standard output.
    record Said(int code, String out) {}

    /// The facts after the commands that follow.
    ///
    /// @param exits   exit codes of the commands
    /// @param rows    the status of each row by its id or else its number, as `export` shows it
    /// @param sent    ids of the rows that were sent, sorted; a row that was sent twice is there twice
    /// @param kept    ids of rows whose result is of a run that the frozen records contain
    /// @param yielded the outputs, tokens and price of each row that has any, as `export` shows them
    /// @param shown   the figures of each results file that are not zero, as `status` shows them
    record Outcome(List<Integer> exits, Map<String, String> rows, List<String> sent, List<String> kept,
                   Map<String, Map<String, String>> yielded, Map<String, Map<String, String>> shown) {
        static Outcome of(JsonNode json) {
            return Given.JSON.convertValue(json, Outcome.class);
        }
    }

    /// Continues the batch in a folder with the commands of `next`, and returns what came of it.
    ///
    /// @param edit changes the files before the first command
    Outcome follow(JsonNode next, Path folder, Tool tool, Consumer<Path> edit) throws Exception {
        try (var server = new Server(this, age(next))) {
            copyTo(folder, age(next), server.url());
            edit.accept(folder);
            var settings = settings(server.url(), folder);
            var exits = new ArrayList<Integer>();
            for (var command : next.path("commands"))
                exits.add(tool.run(settings, words(command.asText(), folder)).code());
            var rows = new TreeMap<String, String>();
            Map<String, Map<String, String>> yielded = new TreeMap<>(), shown = new TreeMap<>();
            for (var output : outputs(folder)) {
                var files = List.of("-i", folder.resolve("data.csv").toString(), "-o", output.toString());
                for (var row : export(folder, settings, tool, files).entrySet()) {
                    rows.put(row.getKey(), row.getValue().remove("status"));
                    if (!row.getValue().isEmpty()) yielded.put(row.getKey(), row.getValue());
                }
                var status = Given.tree(tool.run(settings, line("status", files, "--json")).out());
                var figures = new LinkedHashMap<String, String>();
                for (var name : FIGURES) figures.put(name, text(status.path(name)));
                figures.values().removeIf(Set.of("0", "")::contains);
                shown.put(output.getFileName().toString(), figures);
            }
            return new Outcome(exits, rows, server.sent.stream().sorted().toList(), kept(folder, server), yielded,
                    shown);
        }
    }

    static Map<String, String> settings(String url, Path folder) {
        return Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", url, "INITIAL_RETRY_DELAY", "10ms",
                "MAX_RETRY_DELAY", "20ms", "XDG_STATE_HOME", folder.resolve("state").toString(), "NO_COLOR", "1");
    }

    /// The results file of a batch, or those of its shards.
    private static List<Path> outputs(Path folder) throws IOException {
        var whole = folder.resolve("results.jsonl");
        if (Files.exists(whole) || Files.exists(folder.resolve("results.jsonl.log"))) return List.of(whole);
        try (var files = Files.list(folder)) {
            return files.filter(file -> file.toString().endsWith(".jsonl")).sorted().toList();
        }
    }

    /// `run --settle 1s` or `run -o results.3-of-3.jsonl`, with the files of a folder. `''` is an empty word.
    static String[] words(String command, Path folder) {
        var words = new ArrayList<>(List.of(command.replace("''", "").split(" ", -1)));
        int named = words.indexOf("-o") + 1;
        var output = folder.resolve(named == 0 ? "results.jsonl" : words.get(named)).toString();
        if (named == 0) words.addAll(1, List.of("-o", output));
        else words.set(named, output);
        words.addAll(1, List.of("-i", folder.resolve("data.csv").toString()));
        if (List.of("run", "retry").contains(words.getFirst())) words.addAll(List.of("--progress", "off"));
        return words.toArray(String[]::new);
    }

    static Duration age(JsonNode next) {
        return Duration.parse(next.path("after").asText());
    }

    private Instant newest() throws IOException {
        var newest = Instant.EPOCH;
        for (var file : batchFiles()) for (var match : TIME.matcher(Files.readString(file)).results().toList()) {
            var time = Instant.parse(match.group(1) + "Z");
            if (file.toString().contains(".log") && time.isAfter(newest)) newest = time;
        }
        return newest;
    }

    private List<Path> batchFiles() throws IOException {
        try (var files = Files.list(home)) {
            return files.filter(file -> !file.endsWith(DESCRIPTION) && !file.endsWith(RECORDS)).sorted().toList();
        }
    }

    /// How far all times move, in whole seconds.
    private long shift(Duration age) throws IOException {
        return Duration.between(newest(), Instant.now().minus(age)).toSeconds();
    }

    void copyTo(Path folder, Duration age, String url) throws IOException {
        long shift = shift(age);
        for (var file : batchFiles()) {
            var text = moved(Files.readString(file, UTF_8), shift);
            if (file.toString().contains(".log")) text = text.replace(text("base_url"), url);
            Files.writeString(folder.resolve(file.getFileName()), text);
        }
    }

    private static String moved(String text, long seconds) {
        var moved = TIME.matcher(text).replaceAll(match ->
                Instant.parse(match.group(1) + "Z").plusSeconds(seconds).toString().substring(0, 19));
        return EPOCH.matcher(moved).replaceAll(match -> match.group(1) + (Long.parseLong(match.group(2)) + seconds));
    }

    /// The status of each row and what it yielded, by its id. There are none if the tool rejects the batch.
    private static Map<String, Map<String, String>> export(Path folder, Map<String, String> settings, Tool tool,
                                                           List<String> files) throws Exception {
        var sheet = folder.resolve("rows.csv");
        Files.deleteIfExists(sheet);
        tool.run(settings, line("export", files, sheet.toString(), "--force"));
        if (!Files.exists(sheet)) return Map.of();
        var lines = lines(Files.readString(sheet).replace("\uFEFF", ""));
        var header = lines.getFirst();
        var rows = new LinkedHashMap<String, Map<String, String>>();
        for (int i = 1; i < lines.size(); i++) {
            var cells = lines.get(i);
            var row = new TreeMap<String, String>();
            for (int at = 0; at < cells.size(); at++) {
                var name = header.get(at);
                boolean isFact = name.equals("status")
                        || YIELDED.matcher(name).matches() && !cells.get(at).isEmpty();
                if (isFact) row.put(name, UUID.matcher(cells.get(at)).replaceAll("a-uuid"));
            }
            rows.put(header.contains("id") ? cells.get(header.indexOf("id")) : "" + i, row);
        }
        return rows;
    }

    private static String[] line(String command, List<String> files, String... more) {
        return Stream.of(List.of(command), files, List.of(more)).flatMap(List::stream).toArray(String[]::new);
    }

    /// The cells of each line of a CSV that ends with a line end, whichever delimiter it has.
    private static List<List<String>> lines(String csv) {
        var delimiter = csv.lines().findFirst().orElseThrow().contains(";") ? ";" : ",";
        var cell = Pattern.compile("(\"(?:[^\"]|\"\")*\"|[^\"" + delimiter + "\\n]*)([" + delimiter + "\\n])");
        var lines = new ArrayList<List<String>>();
        var cells = new ArrayList<String>();
        for (var match : cell.matcher(csv.replace("\r\n", "\n")).results().toList()) {
            cells.add(match.group(1).replaceAll("^\"|\"$", "").replace("\"\"", "\""));
            if (!match.group(2).equals("\n")) continue;
            lines.add(List.copyOf(cells));
            cells.clear();
        }
        return lines;
    }

    /// A figure, or an amount for each currency.
    private static String text(JsonNode figure) {
        if (figure.isNumber()) return figure.decimalValue().stripTrailingZeros().toPlainString();
        return figure.propertyStream().map(part -> part.getKey() + " " + text(part.getValue()))
                .collect(Collectors.joining(", "));
    }

    private static List<String> kept(Path folder, Server server) throws IOException {
        var runs = new TreeMap<String, String>(); // of the last line of each row
        for (var file : outputs(folder)) {
            var text = Files.exists(file) ? Files.readString(file).replace("\uFEFF", "") : "";
            for (var line : text.lines().toList()) {
                if (!line.endsWith("}")) continue; // cut
                var result = Given.tree(line);
                runs.put(result.path("id").asText(), result.path("workflow_run_id").asText()
                        + result.path("message_id").asText());
            }
        }
        return runs.entrySet().stream().filter(row -> server.knows(row.getValue())).map(Map.Entry::getKey).toList();
    }

    /// A Dify that knows the frozen runs. Anything else is for a simulated one, without its faults.
    static final class Server implements AutoCloseable {
        private static final List<String> HEADERS = List.of("content-type", "authorization");

        final List<String> sent = Collections.synchronizedList(new ArrayList<>());
        private final HttpServer server;
        private final SimulatedServer simulated;
        private final HttpClient client = HttpClient.newBuilder()
                .version(HttpClient.Version.HTTP_1_1).build();
        private final JsonNode records;
        private final String version;

        Server(FrozenBatch batch, Duration age) throws IOException {
            version = batch.text("dify");
            var text = Files.readString(batch.home().resolve(RECORDS));
            records = Given.tree(moved(text, batch.shift(age)));
            simulated = SimulatedServer.start(0, 0, SimulatedDify.of("--dify", version, "--app", batch.text("app"),
                    "--columns", batch.text("columns"), "--latency", "20ms", "--speed", "10"));
            server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 100);
            server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
            server.createContext("/v1/", exchange -> {
                try (exchange) {
                    answer(exchange);
                } catch (InterruptedException _) {
                    Thread.currentThread().interrupt();
                }
            });
            server.start();
        }

        String url() {
            return "http://127.0.0.1:" + server.getAddress().getPort() + "/v1";
        }

        /// Whether the frozen records contain this run or message.
        boolean knows(String ids) {
            return records.path("runs").propertyStream().anyMatch(run -> ids.contains(run.getKey()))
                    || records.path("messages").valueStream().flatMap(JsonNode::valueStream)
                    .anyMatch(message -> ids.contains(message.path("id").asText()));
        }

        private void answer(HttpExchange exchange) throws IOException, InterruptedException {
            var query = Optional.ofNullable(exchange.getRequestURI().getQuery()).orElse("");
            var known = switch (exchange.getRequestURI().getPath()) {
                case "/v1/workflows/logs" -> list("logs", value(query, "created_by_end_user_session_id"));
                case "/v1/conversations" -> list("conversations", value(query, "user"));
                case "/v1/messages" -> list("messages", value(query, "conversation_id"));
                case String path when path.startsWith("/v1/workflows/run/") ->
                        Optional.ofNullable(records.path("runs").get(path.substring("/v1/workflows/run/".length())));
                default -> Optional.<JsonNode>empty();
            };
            if (known.isPresent()) send(exchange, 200, Map.of("content-type", "application/json",
                    "x-version", version), Given.JSON.writeValueAsBytes(known.get()));
            else forward(exchange);
        }

        private Optional<JsonNode> list(String kind, String key) {
            var rows = records.path(kind).get(key);
            return rows == null ? Optional.empty() : Optional.of(Given.JSON.createObjectNode().put("page", 1)
                    .put("limit", 100).put("total", rows.size()).put("has_more", false).set("data", rows));
        }

        private static String value(String query, String name) {
            return Stream.of(query.split("&")).filter(part -> part.startsWith(name + "="))
                    .map(part -> part.substring(name.length() + 1)).findFirst().orElse("");
        }

        private void forward(HttpExchange exchange) throws IOException, InterruptedException {
            var body = new String(exchange.getRequestBody().readAllBytes(), UTF_8);
            note(exchange, body);
            var plain = FAULT.matcher(body).replaceAll("");
            var request = HttpRequest.newBuilder(simulated.baseUrl().resolve(exchange.getRequestURI().toString()))
                    .method(exchange.getRequestMethod(), HttpRequest.BodyPublishers.ofString(plain));
            exchange.getRequestHeaders().forEach((name, values) -> {
                if (HEADERS.contains(name.toLowerCase(Locale.ROOT))) request.header(name, values.getFirst());
            });
            var response = client.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
            var headers = new HashMap<String, String>();
            response.headers().map().forEach((name, values) -> headers.put(name, values.getFirst()));
            send(exchange, response.statusCode(), headers, response.body());
        }

        /// Notes the row of a request that starts a run.
        private void note(HttpExchange exchange, String body) throws IOException {
            var path = exchange.getRequestURI().getPath();
            boolean isStart = path.matches("/v1/(workflows/(.+/)?run|(chat|completion)-messages)");
            if (!exchange.getRequestMethod().equals("POST") || !isStart) return;
            var asked = (ObjectNode) Given.tree(body);
            var id = asked.path("inputs").path("id");
            sent.add(id.isMissingNode() ? asked.path("inputs").path("text").asText() : id.asText());
        }

        private static void send(HttpExchange exchange, int status, Map<String, String> headers, byte[] body)
                throws IOException {
            headers.forEach((name, value) -> {
                if (!name.matches("(?i)content-length|transfer-encoding|connection|:.*"))
                    exchange.getResponseHeaders().set(name, value);
            });
            exchange.sendResponseHeaders(status, body.length == 0 ? -1 : body.length);
            exchange.getResponseBody().write(body);
        }

        @Override
        public void close() throws IOException {
            server.stop(0);
            simulated.close();
            client.close();
        }
    }
}
