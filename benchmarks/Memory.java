///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Runs one batch with less and more memory and checks what the tool makes of it.
//SOURCES Chaos.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs the real command with `-Xmx` from small to large, against a server whose responses are of very different
/// sizes. Then each batch is continued with enough memory: what was paid for must not have been lost.
@Command(name = "memory", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Run one batch, with responses of 1 kB to 4 MB, with -Xmx from small to large. Each call must end "
                + "well, or with exit code 3 or 4 and a sentence about memory. Then continue with enough memory: each "
                + "row must have its own result and must have run once. Exit code 1 if anything is wrong.",
        footer = {"", "Example: benchmarks/memory --megabytes 24,32 --mode streaming"})
final class Memory implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int ROWS = 25, KILOBYTE = 1 << 10, LONGEST_SECONDS = 120;
    /// In kilobytes, by the number of the row.
    private static final List<Integer> SIZES = List.of(1, 16, 256, 1024, 4096);
    private static final int ENOUGH = 1024;

    @Option(names = "--megabytes", paramLabel = "N,…", split = ",",
            defaultValue = "8,16,24,32,48,64,96,128,192,256,384",
            description = "Use these values of -Xmx (default: ${DEFAULT-VALUE}).")
    List<Integer> megabytes;

    @Option(names = "--mode", paramLabel = "MODE", split = ",", defaultValue = "blocking,streaming",
            description = "Run in these modes (default: ${DEFAULT-VALUE}).")
    List<String> modes;

    @Option(names = {"-c", "--concurrency"}, paramLabel = "N", defaultValue = "5",
            description = "Run N rows at a time (default: ${DEFAULT-VALUE}).")
    int concurrency;

    private Path folder;

    static void main(String... args) {
        System.exit(new CommandLine(new Memory()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        folder = Files.createTempDirectory("memory-").toRealPath();
        int wrong = 0;
        System.out.println("| mode | -Xmx | exit | results | unknown | seconds | continued: results | problems |");
        System.out.println("|---|--:|--:|--:|--:|--:|--:|---|");
        for (var mode : modes) for (int size : megabytes) {
            var tried = tried(mode, size);
            System.out.println(tried);
            if (!tried.endsWith("|  |") && !tried.endsWith("Java does not start |")) wrong++;
        }
        if (wrong == 0) Chaos.Tool.delete(folder);
        else System.out.println("files: " + folder);
        return wrong == 0 ? 0 : 1;
    }

    /// Returns a line of the table.
    private String tried(String mode, int size) throws Exception {
        var place = Files.createDirectories(folder.resolve(mode + "-" + size));
        var csv = IntStream.rangeClosed(1, ROWS).mapToObj(row -> row + ",text " + row + "\n");
        Files.writeString(place.resolve("data.csv"), csv.collect(Collectors.joining("", "id,text\n", "")));
        var problems = new ArrayList<String>();
        try (var dify = new Dify(mode.equals("streaming"))) {
            long start = System.nanoTime();
            int exit = run(place, mode, size, dify);
            long seconds = (System.nanoTime() - start) / 1_000_000_000;
            var output = Files.readString(place.resolve("output"));
            boolean isStarted = dify.starts.values().stream().mapToInt(Integer::intValue).sum() > 0;
            if (exit == 1 && !isStarted && output.contains("Error occurred during initialization of VM"))
                return line(mode, size, exit, 0, 0, seconds, 0, "Java does not start");
            if (!List.of(0, 3, 4).contains(exit)) problems.add("exit code " + exit);
            if (output.contains("\tat ") || output.contains("java.lang")) problems.add("stack trace or class name");
            var log = place.resolve("results.jsonl.log");
            var ends = Chaos.Jsonl.read(log).lines().stream()
                    .filter(event -> event.path("event").asText().equals("end")).toList();
            boolean isExplained = output.contains("memory")
                    || ends.stream().anyMatch(end -> end.path("error").asText().contains("memory"));
            if (exit != 0 && !isExplained) problems.add("no sentence about memory");
            int results = check(place, problems);
            if (exit == 0 && results < ROWS) problems.add("exit code 0 with " + results + " results");
            long unknown = ends.stream().filter(end -> end.path("outcome").asText().equals("unknown")).count();
            int second = run(place, mode, ENOUGH, dify);
            if (second != 0) problems.add("with enough memory: exit code " + second);
            int continued = check(place, problems);
            if (continued < ROWS) problems.add("with enough memory: " + continued + " results");
            var twice = dify.starts.entrySet().stream().filter(row -> row.getValue() > 1).map(Map.Entry::getKey);
            twice.forEach(id -> problems.add("row " + id + " ran twice"));
            return line(mode, size, exit, results, unknown, seconds, continued, String.join("; ", problems));
        }
    }

    private static String line(Object... cells) {
        return Stream.of(cells).map(String::valueOf).collect(Collectors.joining(" | ", "| ", " |"));
    }

    private int run(Path place, String mode, int size, Dify dify) throws Exception {
        var words = Chaos.Tool.java(List.of("-Xmx" + size + "m"), "difyexec.DifyExec", List.of("run", "-i", "data.csv",
                "-o", "results.jsonl", "--mode", mode, "-c", "" + concurrency, "--settle", "1", "--progress", "off"));
        var builder = new ProcessBuilder(words).directory(place.toFile()).redirectErrorStream(true)
                .redirectOutput(place.resolve("output").toFile());
        builder.environment().putAll(Map.of("DIFY_API_KEY", "app-memory", "DIFY_API_BASE_URL", dify.url(),
                "INITIAL_RETRY_DELAY", "100ms", "MAX_RETRY_DELAY", "500ms", "TIMEOUT", "30"));
        var process = builder.start();
        if (process.waitFor(LONGEST_SECONDS, TimeUnit.SECONDS)) return process.exitValue();
        process.destroyForcibly().waitFor();
        return -1;
    }

    /// Counts the results. Each must be of its own row, whole, and the only one.
    private int check(Path place, List<String> problems) throws IOException {
        var ids = new HashSet<String>();
        var results = Chaos.Jsonl.read(place.resolve("results.jsonl"));
        if (results.torn() > 0) problems.add(results.torn() + " torn lines");
        for (var line : results.lines()) {
            var id = line.path("id").asText();
            if (!ids.add(id)) problems.add("two results of row " + id);
            if (!line.at("/outputs/text").asText().equals(text(id))) problems.add("wrong result of row " + id);
        }
        return ids.size();
    }

    private static String text(String id) {
        var word = "é" + id + " ";
        int length = SIZES.get(Integer.parseInt(id) % SIZES.size()) * KILOBYTE;
        return word.repeat(length / word.getBytes(UTF_8).length);
    }

    /// A Dify 1.16.1 that counts the runs of each row and knows each run afterwards.
    private static final class Dify implements AutoCloseable {
        final Map<String, Integer> starts = new ConcurrentHashMap<>();
        private final Map<String, String> rowOfUser = new ConcurrentHashMap<>();
        private final boolean isStream;
        private final HttpServer server;

        Dify(boolean isStream) throws IOException {
            this.isStream = isStream;
            server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 50);
            server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
            server.createContext("/v1/", exchange -> {
                try (exchange) {
                    exchange.getResponseHeaders().set("X-Version", "1.16.1");
                    var path = exchange.getRequestURI().getPath().substring("/v1".length());
                    if (path.equals("/workflows/run")) start(exchange);
                    else if (path.startsWith("/workflows/run/run-")) send(exchange, "application/json",
                            run(path.substring("/workflows/run/run-".length())).toString());
                    else if (path.equals("/workflows/logs")) list(exchange);
                    else send(exchange, "application/json",
                            path.equals("/info") ? "{\"name\":\"a\",\"mode\":\"workflow\"}" : "{}");
                }
            });
            server.start();
        }

        String url() {
            return "http://127.0.0.1:" + server.getAddress().getPort() + "/v1";
        }

        private void start(HttpExchange exchange) throws IOException {
            var request = JSON.readTree(exchange.getRequestBody());
            var id = request.at("/inputs/id").asText();
            starts.merge(id, 1, Integer::sum);
            rowOfUser.put(request.path("user").asText(), id);
            var body = JSON.createObjectNode().put("workflow_run_id", "run-" + id).put("task_id", "task-" + id);
            if (isStream) {
                var started = body.deepCopy().put("event", "workflow_started");
                started.putObject("data").put("id", "run-" + id);
                var finished = body.put("event", "workflow_finished").set("data", run(id));
                send(exchange, "text/event-stream", "data: " + started + "\n\ndata: " + finished + "\n\n");
            } else send(exchange, "application/json", body.set("data", run(id)).toString());
        }

        private static JsonNode run(String id) {
            var run = JSON.createObjectNode().put("id", "run-" + id).put("workflow_id", "w").put("status", "succeeded")
                    .putNull("error").put("elapsed_time", 1).put("total_tokens", 1).put("total_steps", 1);
            run.putObject("outputs").put("text", text(id));
            return run;
        }

        private void list(HttpExchange exchange) throws IOException {
            var user = URLDecoder.decode(exchange.getRequestURI().getRawQuery(), UTF_8)
                    .replaceFirst(".*created_by_end_user_session_id=([^&]*).*", "$1");
            var list = JSON.createObjectNode().put("page", 1).put("limit", 100).put("has_more", false);
            var rows = list.putArray("data");
            if (rowOfUser.containsKey(user)) {
                var row = rows.addObject();
                row.putObject("workflow_run").put("id", "run-" + rowOfUser.get(user)).put("status", "succeeded");
                row.putObject("created_by_end_user").put("session_id", user);
            }
            send(exchange, "application/json", list.put("total", rows.size()).toString());
        }

        private static void send(HttpExchange exchange, String type, String text) throws IOException {
            var bytes = text.getBytes(UTF_8);
            exchange.getResponseHeaders().set("Content-Type", type);
            exchange.sendResponseHeaders(200, bytes.length);
            exchange.getResponseBody().write(bytes);
        }

        @Override
        public void close() {
            server.stop(0);
        }
    }
}
