///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Kills the tool at random moments of a batch and counts rows lost or paid twice.
//SOURCES ../DifyExec.java
//SOURCES ../tests/support/Simulator.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs a batch in a child process that is killed (SIGKILL) at random moments and restarted until the batch is done,
/// then compares the tool's files with the server's record. [Simulator] has its own process, so the runs of a killed
/// tool continue there.
@Command(name = "chaos", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Kill the tool at random moments of a batch, with a faulty server, and count rows lost, torn, "
                + "wrong and paid twice. Then run verify, plant one fault of each kind, and run verify again. "
                + "Exit code 1 if there are any, or if verify reports one or misses a planted one.",
        footer = {"", "Example: benchmarks/chaos --rows 500 --kills 20 --mode blocking -- --stopped 1%% --places 10"})
final class Chaos implements Callable<Integer> {
    private static final int MAX_UNKILLED_STARTS = 25;
    static final List<String> SERVER = List.of("--latency", "100ms", "--jitter", "200ms", "--drop-before",
            "1.5%", "--drop-after", "1.5%", "--lose-finish", "1%", "--throttle", "2%", "--silence", "4s");
    /// Runs whose records differ from what the tool has seen of them, as on the real servers.
    private static final List<String> RECORDS = List.of("--pause", "1%", "--unrecorded", "0.5%");
    static final ObjectMapper JSON = new ObjectMapper();

    @Option(names = "--rows", paramLabel = "N", defaultValue = "5000",
            description = "Write a CSV with N rows (default: ${DEFAULT-VALUE}).")
    int rows;

    @Option(names = "--kills", paramLabel = "N", defaultValue = "200",
            description = "Kill the tool N times (default: ${DEFAULT-VALUE}).")
    int kills;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1",
            description = "Seed for kills, rows and faults (default: ${DEFAULT-VALUE}).")
    long seed;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.14.2",
            description = "Simulate Dify " + SimulatedRun.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    String version;

    @Option(names = "--app", paramLabel = "KIND", defaultValue = "workflow",
            description = "Simulate a workflow, chatflow, chat, agent-chat, agent or completion app "
                    + "(default: ${DEFAULT-VALUE}). Of the last four, rows are unknown if Dify does not show them.")
    String app;

    @Option(names = "--mode", paramLabel = "MODE", defaultValue = "streaming",
            description = "Run the tool with --mode streaming, blocking or auto (default: ${DEFAULT-VALUE}).")
    String mode;

    @Option(names = "--settle", paramLabel = "SEC", defaultValue = "5",
            description = "Run the tool with --settle SEC. Use more than the simulator's --queue, or rows are paid "
                    + "twice (default: ${DEFAULT-VALUE}).")
    String settle;

    @Option(names = "--timeout", paramLabel = "SEC", defaultValue = "20",
            description = "Run the tool with TIMEOUT=SEC (default: ${DEFAULT-VALUE}).")
    String timeout;

    @Option(names = "--max-retries", paramLabel = "N", defaultValue = "3",
            description = "Run the tool with MAX_RETRIES=N (default: ${DEFAULT-VALUE}).")
    String maxRetries;

    @Option(names = {"-c", "--concurrency"}, paramLabel = "N", defaultValue = "20",
            description = "Run N rows at a time (default: ${DEFAULT-VALUE}).")
    int concurrency;

    @Option(names = "--folder", paramLabel = "DIR",
            description = "Keep all files in DIR (default: a temporary folder, kept only if something is wrong).")
    Path folder;

    @Parameters(paramLabel = "OPTION", description = "Pass these options to the simulator, after the defaults "
            + "--latency 100ms --jitter 200ms --drop-before 1.5%% --drop-after 1.5%% --lose-finish 1%% --throttle 2%% "
            + "--silence 4s.")
    List<String> server = List.of();

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(new CommandLine(new Chaos()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var keep = folder != null;
        if (!keep) folder = Files.createTempDirectory("chaos-");
        Files.createDirectories(folder);
        var table = Table.write(folder.resolve("data.csv"), rows, seed, app);
        var began = System.nanoTime();
        try (var simulator = Simulated.start(simulatorOptions())) {
            var tool = new Tool(folder, List.of("run", "-i", "data.csv", "-o", "results.jsonl", "--mode", mode,
                    "-c", String.valueOf(concurrency), "--settle", settle, "--progress", "off"),
                    simulator.address(), timeout, maxRetries);
            tool.archiveClasses();
            var starts = runWithKills(tool::start, folder.resolve("results.jsonl"), rows, kills, seed);
            var seconds = (System.nanoTime() - began) / 1_000_000_000;
            var stats = simulator.stats();
            Files.writeString(folder.resolve("stats.json"), stats.toPrettyString());
            var verdict = Verdict.of(folder, table, stats, starts.lastExit());
            print(verdict, starts, seconds);
            var verified = tool.verify("results.jsonl");
            var problems = new ArrayList<>(Findings.problems(verified, verdict, rows));
            if (problems.isEmpty() && verdict.isGood() && hasRuns()) {
                var deleted = new Planted(folder, simulator.address(), isAsked());
                problems.addAll(deleted.problems(tool.verify(deleted.delete(verified))));
                var planted = new Planted(folder, simulator.address(), isAsked());
                problems.addAll(planted.problems(tool.verify(planted.plant(verified))));
            }
            problems.forEach(spec.commandLine().getOut()::println);
            boolean isGood = verdict.isGood() && problems.isEmpty();
            if (isGood && !keep) Tool.delete(folder);
            else spec.commandLine().getOut().println("files: " + folder);
            spec.commandLine().getOut().flush();
            return isGood ? 0 : 1;
        }
    }

    private List<String> simulatorOptions() {
        return Stream.of(List.of("--dify", version, "--seed", String.valueOf(seed), "--app", app, "--columns",
                isAsked() ? "id" : "id,text"), SERVER, hasRuns() ? RECORDS : List.<String>of(), server)
                .flatMap(List::stream).toList();
    }

    /// Whether the text is sent as a question.
    private boolean isAsked() {
        return !app.equals("workflow") && !app.equals("completion");
    }

    private boolean hasRuns() {
        return app.equals("workflow") || app.equals("chatflow");
    }

    /// @param exits how often each exit code occurred
    record Starts(int starts, int kills, int lastExit, Map<Integer, Integer> exits) {}

    /// One kill in three hits the first 1.5 s of a process: its start, its look-ups or its first writes. The others
    /// wait for a few more results, so that they spread over the batch.
    static Starts runWithKills(Callable<Running> tool, Path file, int rows, int kills, long seed) throws Exception {
        var random = new SplittableRandom(seed);
        var results = new Lines(file);
        var exits = new TreeMap<Integer, Integer>();
        int starts = 0, killed = 0, unkilled = 0, before = -1;
        while (true) {
            starts++;
            try (var process = tool.call()) {
                if (killed < kills) {
                    long early = random.nextInt(3) == 0 ? random.nextLong(100, 1500) : 15_000;
                    long share = Math.max(1, Math.max(0, rows - results.count()) / (kills - killed));
                    long goal = results.count() + random.nextLong(1, share + 1), extra = random.nextLong(150);
                    if (process.runsUntil(early, () -> results.count() >= goal)
                            && process.runsUntil(extra, () -> false)) {
                        process.kill();
                        killed++;
                        continue;
                    }
                }
                int exit = process.join();
                exits.merge(exit, 1, Integer::sum);
                boolean stuck = exit == Exit.ROWS_FAILED.code && results.count() == before && killed >= kills;
                before = results.count();
                if (exit == Exit.OK.code || stuck || exit < Exit.ROWS_FAILED.code || ++unkilled > MAX_UNKILLED_STARTS)
                    return new Starts(starts, killed, exit, exits);
            }
        }
    }

    private void print(Verdict verdict, Starts starts, long seconds) {
        var out = spec.commandLine().getOut();
        out.println("| dify | app | mode | rows | kills | starts | lost | torn | wrong | paid twice | unreported | "
                + "late | unknown | failed | pending | missed | duplicates | exits | s | seed | server |");
        out.println("|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|---|");
        out.println("| " + Stream.of(version, app, mode, rows, starts.kills(), starts.starts(), verdict.lost().size(),
                verdict.torn(), verdict.wrong().size(), verdict.paidTwice().size(), verdict.unreported().size(),
                verdict.late(), verdict.unknown(), verdict.failed(), verdict.pending(), verdict.missed().size(),
                verdict.duplicates(),
                starts.exits(), seconds, seed, String.join(" ", server)).map(String::valueOf)
                .collect(Collectors.joining(" | ")) + " |");
        example("lost", verdict.lost());
        example("wrong", verdict.wrong());
        example("paid twice", verdict.paidTwice());
        example("paid twice and not reported as late", verdict.unreported());
        example("succeeded on the server, failed or unknown here", verdict.missed());
    }

    private void example(String what, Collection<String> ids) {
        if (!ids.isEmpty()) spec.commandLine().getOut().println(what + ": " + ids.stream().limit(5).toList());
    }

    // ── Comparison ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// The input CSV, with quotes, commas, line breaks and non-Latin text.
    ///
    /// @param texts the text of each id; an app that is asked gets it as its query
    record Table(Map<String, String> texts, String app) {
        static Table write(Path file, int rows, long seed, String app) throws IOException {
            var random = new SplittableRandom(seed);
            var texts = new LinkedHashMap<String, String>();
            boolean hasText = app.equals("workflow") || app.equals("completion");
            var csv = new StringBuilder(hasText ? "id,text\n" : "id,query\n");
            for (int row = 1; row <= rows; row++) {
                var text = switch (random.nextInt(4)) {
                    case 0 -> "plain text of row " + row;
                    case 1 -> "\"quoted\", comma, and\na second line of " + row;
                    case 2 -> "日本語 / émoji 😀 " + row;
                    default -> ("long " + row + " ").repeat(random.nextInt(1, 60)) + ".";
                };
                texts.put("row-" + row, text);
                csv.append("row-").append(row).append(",\"").append(text.replace("\"", "\"\"")).append("\"\n");
            }
            Files.writeString(file, csv);
            return new Table(texts, app);
        }
    }

    /// Rows by outcome, from the tool's files and the server's record.
    ///
    /// @param lost       rows without a result that are not reported as pending, failed, paused or unknown
    /// @param torn       lines of the results or the log that are not JSON objects
    /// @param wrong      results with another row's outputs
    /// @param unreported rows paid twice without a `late` event in the log
    /// @param missed     rows reported as failed or unknown although one of their runs succeeded
    /// @param duplicates results beyond the first of an id
    /// @param missing    rows without a result
    record Verdict(List<String> lost, int torn, List<String> wrong, List<String> paidTwice, List<String> unreported,
                   int late, int unknown, int failed, int pending, List<String> missed, int duplicates,
                   List<String> missing) {

        static Verdict of(Path folder, Table table, JsonNode stats, int exit) throws Exception {
            var results = Jsonl.read(folder.resolve("results.jsonl"));
            var log = Jsonl.read(folder.resolve("results.jsonl.log"));
            var ids = new HashMap<String, Integer>();
            results.lines().forEach(line -> ids.merge(line.path("id").asText(), 1, Integer::sum));
            var wrong = results.lines().stream().filter(line -> isWrong(line, table))
                    .map(line -> line.path("id").asText()).toList();
            var listed = Files.exists(folder.resolve("results.jsonl.retry"))
                    ? Set.copyOf(Files.readAllLines(folder.resolve("results.jsonl.retry"))) : Set.of();
            var missing = table.texts().keySet().stream().filter(id -> !ids.containsKey(id)).toList();
            var status = Tool.status(folder);
            var lost = missing.stream().filter(id -> !listed.contains(id)
                    && (exit == Exit.OK.code || status.path("pending").asInt() == 0)).toList();
            var late = new HashSet<String>();
            log.lines().stream().filter(line -> line.path("event").asText().equals("late"))
                    .forEach(line -> late.add(line.path("user").asText()));
            var paidTwice = new ArrayList<String>();
            var unreported = new ArrayList<String>();
            var succeeded = new HashSet<String>();
            stats.path("by_row").properties().forEach(row -> {
                if (row.getValue().path("succeeded").asInt() > 0) succeeded.add(row.getKey());
                if (row.getValue().path("twice").asInt() == 0) return;
                paidTwice.add(row.getKey());
                if (row.getValue().path("runs").valueStream()
                        .noneMatch(run -> late.contains(run.path("user").asText())))
                    unreported.add(row.getKey());
            });
            return new Verdict(lost, results.torn() + log.torn(), wrong, paidTwice, unreported, late.size(),
                    status.path("unknown").asInt(), status.path("failed").asInt(), status.path("pending").asInt(),
                    missing.stream().filter(id -> listed.contains(id) && succeeded.contains(id)).toList(),
                    results.lines().size() - ids.size(), missing);
        }

        private static boolean isWrong(JsonNode line, Table table) {
            var id = line.path("id").asText();
            var text = table.texts().get(id);
            // Dify stores an answer trimmed, and a completion's prompt consists of both inputs
            if (!table.app().matches("workflow|chatflow")) return !line.path("status").asText().equals("success")
                    || !line.path("outputs").path("answer").asText().strip().endsWith(text.strip());
            if (table.app().equals("chatflow")) return !line.path("status").asText().equals("success")
                    || !List.of("Answer to: " + text, SimulatedGraph.FIRST_PART + "Note: " + text) // after a pause
                            .contains(line.path("outputs").path("answer").asText());
            return !line.path("status").asText().equals("success")
                    || !line.path("inputs").path("text").asText().equals(text)
                    || !line.path("outputs").path("row_id").asText().equals(id)
                    || !line.path("outputs").path("text").asText().equals(text)
                    || line.path("workflow_run_id").asText().isEmpty();
        }

        boolean isGood() {
            return lost.isEmpty() && torn == 0 && wrong.isEmpty() && paidTwice.isEmpty();
        }
    }

    /// The findings of `verify`.
    static final class Findings {
        private static final List<String> WRONG = List.of("paid_twice", "duplicated", "without_run", "lost", "differs",
                "no_answer");

        private Findings() {}

        /// Nothing is wrong, and each result is confirmed unless this version of Dify cannot show it.
        static List<String> problems(JsonNode verified, Verdict verdict, int rows) {
            var problems = new ArrayList<String>();
            for (var kind : WRONG) if (!ids(verified, kind).isEmpty())
                problems.add("verify: " + kind + " " + verified.path("findings").path(kind).valueStream().limit(3).toList());
            var seen = ids(verified, "matches");
            seen.addAll(ids(verified, "not_verifiable"));
            seen.addAll(ids(verified, "open"));
            if (seen.size() < rows - verdict.missing().size())
                problems.add("verify confirmed " + seen.size() + " of " + (rows - verdict.missing().size()) + " results");
            return problems;
        }

        static Set<String> ids(JsonNode verified, String kind) {
            return verified.path("findings").path(kind).valueStream().map(finding -> finding.path("id").asText())
                    .collect(Collectors.toCollection(TreeSet::new));
        }
    }

    /// A copy of the batch with one fault of each kind, in rows that `verify` has confirmed.
    static final class Planted {
        private final Path folder;
        private final URI server;
        private final boolean isChatflow;
        /// By row: the finding that names its fault, and what the fault is.
        private final Map<String, Map.Entry<String, String>> expected = new TreeMap<>();

        Planted(Path folder, URI server, boolean isChatflow) {
            this.folder = folder;
            this.server = server;
            this.isChatflow = isChatflow;
        }

        private Map<String, ObjectNode> lines() throws IOException {
            var lines = new LinkedHashMap<String, ObjectNode>();
            Jsonl.read(folder.resolve("results.jsonl")).lines()
                    .forEach(line -> lines.put(line.path("id").asText(), (ObjectNode) line));
            return lines;
        }

        private static Set<String> sound(JsonNode verified) {
            var sound = Findings.ids(verified, "matches");
            sound.removeAll(Findings.ids(verified, "not_verifiable"));
            sound.removeAll(Findings.ids(verified, "sent_again"));
            return sound;
        }

        /// Deletes every fourth line and adds none, because the size of the file shows that lines are gone.
        String delete(JsonNode verified) throws Exception {
            var lines = lines();
            int number = 0;
            for (var id : sound(verified)) {
                if (number++ % 4 > 0) continue;
                expected.put(id, Map.entry("lost", "a deleted line"));
                lines.remove(id);
            }
            return write("deleted.jsonl", lines.values().stream());
        }

        private String write(String name, Stream<ObjectNode> lines) throws IOException {
            Files.writeString(folder.resolve(name), lines.map(JsonNode::toString)
                    .collect(Collectors.joining("\n", "", "\n")));
            Files.copy(folder.resolve("results.jsonl.log"), folder.resolve(name + ".log"),
                    StandardCopyOption.REPLACE_EXISTING);
            return name;
        }

        /// Returns the name of the damaged results.
        String plant(JsonNode verified) throws Exception {
            var lines = lines();
            var next = sound(verified).stream().map(lines::get).iterator();
            var intact = next.next();

            outputs(fault(next, "differs", "a changed value")).put("answer", "another");
            outputs(fault(next, "differs", "an extra output")).put("more", 1);
            var status = next.next();
            if (status.has("workflow_status")) {
                expected.put(status.path("id").asText(), Map.entry("differs", "a changed status"));
                status.put("workflow_status", "partial-succeeded");
            }
            ((ObjectNode) fault(next, "differs", "a changed input").path("inputs"))
                    .put(isChatflow ? "query" : "text", "another");
            ((ObjectNode) fault(next, "differs", "a changed id among the inputs").path("inputs")).put("id", "another");
            exchange(fault(next, "differs", "swapped outputs"), fault(next, "differs", "swapped outputs"), "outputs");
            exchange(fault(next, "without_run", "exchanged ids"), fault(next, "without_run", "exchanged ids"), "id");
            var wrong = fault(next, "without_run", "a wrong run");
            for (var name : List.of("workflow_run_id", "message_id", "conversation_id"))
                if (wrong.has(name)) wrong.set(name, intact.path(name));
            var added = intact.deepCopy().put("id", "added");
            expected.put("added", Map.entry("without_run", "an added row"));
            var duplicated = fault(next, "duplicated", "a duplicate line").deepCopy();
            var repeated = fault(next, "paid_twice", "a request that was repeated");
            send(repeated, repeated.path("inputs"));
            send(fault(next, "paid_twice", "another run of its user"), intact.path("inputs"));

            return write("planted.jsonl", Stream.concat(lines.values().stream(), Stream.of(added, duplicated)));
        }

        private ObjectNode fault(Iterator<ObjectNode> next, String kind, String what) {
            var line = next.next();
            expected.put(line.path("id").asText(), Map.entry(kind, what));
            return line;
        }

        private static ObjectNode outputs(ObjectNode line) {
            return (ObjectNode) line.path("outputs");
        }

        private static void exchange(ObjectNode one, ObjectNode other, String name) {
            var value = one.path(name);
            one.set(name, other.path(name));
            other.set(name, value);
        }

        /// Starts a further run under the user of this result's attempt. Faults of the simulator may need several.
        private void send(ObjectNode line, JsonNode inputs) throws Exception {
            var attempts = Jsonl.read(folder.resolve("results.jsonl.log")).lines().stream()
                    .filter(event -> event.path("event").asText().equals("attempt"))
                    .filter(event -> event.path("id").equals(line.path("id"))).toList();
            var body = JSON.createObjectNode().put("user", attempts.getLast().path("user").asText());
            body.set("inputs", inputs);
            if (isChatflow) body.set("query", inputs.path("query"));
            var request = HttpRequest.newBuilder(URI.create(server + (isChatflow ? "/chat-messages" : "/workflows/run")))
                    .header("Authorization", "Bearer app-chaos").header("Content-Type", "application/json")
                    .POST(HttpRequest.BodyPublishers.ofString(body.toString())).build();
            try (var http = HttpClient.newHttpClient()) {
                for (int tries = 0; tries < 20; tries++) {
                    try {
                        if (http.send(request, HttpResponse.BodyHandlers.ofString()).statusCode() == 200) return;
                    } catch (IOException _) {
                        // the connection was dropped
                    }
                }
            }
            throw new IOException("no further run could be started");
        }

        /// Faults that are not found, or found as something else, and findings that are none.
        List<String> problems(JsonNode verified) {
            var problems = new ArrayList<String>();
            expected.forEach((id, fault) -> {
                if (!Findings.ids(verified, fault.getKey()).contains(id))
                    problems.add("planted in " + id + ": " + fault.getValue() + ", but verify does not call it "
                            + fault.getKey());
            });
            for (var kind : Findings.WRONG) for (var id : Findings.ids(verified, kind))
                if (!expected.containsKey(id) || !expected.get(id).getKey().equals(kind))
                    problems.add("verify calls " + id + " " + kind + ", planted: " + expected.get(id));
            return problems;
        }
    }

    record Jsonl(List<JsonNode> lines, int torn) {
        static Jsonl read(Path file) throws IOException {
            var lines = new ArrayList<JsonNode>();
            int torn = 0;
            var text = Files.exists(file) ? Files.readString(file) : "";
            if (!text.isEmpty() && !text.endsWith("\n")) torn++;
            for (var line : text.replace("\uFEFF{", "{").split("\n")) { // also where files were joined
                if (line.isEmpty()) continue;
                try {
                    var node = JSON.reader().with(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).readTree(line);
                    if (node.isObject()) lines.add(node);
                    else torn++;
                } catch (IOException _) {
                    torn++;
                }
            }
            return new Jsonl(lines, torn);
        }
    }

    /// Counts the complete lines of a growing file.
    static final class Lines {
        private final Path file;
        private long read = 0;
        private int count = 0;

        Lines(Path file) {
            this.file = file;
        }

        int count() {
            if (!Files.exists(file)) return count;
            try (var channel = FileChannel.open(file)) {
                read = Math.min(read, channel.size()); // the tool cuts off a torn line, which was not counted
                var block = ByteBuffer.allocate(1 << 16);
                for (int got = channel.read(block, read); got > 0; got = channel.read(block.clear(), read)) {
                    for (int i = 0; i < got; i++) if (block.get(i) == '\n') count++;
                    read += got;
                }
                return count;
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }
    }

    // ── Processes ───────────────────────────────────────────────────────────────────────────────────────────────────

    record Simulated(Process process, URI address) implements AutoCloseable {
        static Simulated start(List<String> options) throws IOException {
            var process = new ProcessBuilder(Tool.java(List.of("-Xmx1g"), "difyexec.Simulator", options))
                    .redirectError(ProcessBuilder.Redirect.INHERIT).start();
            var first = new BufferedReader(new InputStreamReader(process.getInputStream(), UTF_8)).readLine();
            if (first == null) throw new IOException("the simulator did not start");
            return new Simulated(process, URI.create(first));
        }

        JsonNode stats() throws IOException, InterruptedException {
            try (var http = HttpClient.newHttpClient()) {
                return JSON.readTree(http.send(HttpRequest.newBuilder(address.resolve("/__stats")).build(),
                        HttpResponse.BodyHandlers.ofString()).body());
            }
        }

        @Override
        public void close() {
            process.destroy();
        }
    }

    /// The tool as a child process.
    record Tool(Path folder, List<String> arguments, URI server, String timeout, String maxRetries) {
        static List<String> java(List<String> flags, String main, List<String> arguments) {
            var command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                    "--enable-native-access=ALL-UNNAMED", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"));
            command.addAll(flags);
            command.addAll(List.of("-cp", classPath(), main));
            command.addAll(arguments);
            return command;
        }

        /// Absolute paths, because the child runs in another folder.
        private static String classPath() {
            return Stream.of(System.getProperty("java.class.path").split(File.pathSeparator))
                    .filter(part -> !part.isEmpty()).map(part -> Path.of(part).toAbsolutePath().toString())
                    .collect(Collectors.joining(File.pathSeparator));
        }

        /// Archives the classes that a small batch loads, which makes the many starts faster.
        void archiveClasses() throws IOException, InterruptedException {
            var warm = folder.resolve("warm");
            Files.createDirectories(warm);
            Files.writeString(warm.resolve("data.csv"), "id,text\n1,a\n2,b\n");
            new ProcessBuilder(java(List.of("-XX:ArchiveClassesAtExit=../classes.jsa", "-Xlog:cds=off",
                    "-Xlog:aot=off"), "difyexec.DifyExec",
                    List.of("run", "--demo", "-i", "data.csv", "-o", "results.jsonl", "--progress", "off")))
                    .directory(warm.toFile()).redirectErrorStream(true).redirectOutput(warm.resolve("out").toFile())
                    .start().waitFor();
        }

        Running start() throws IOException {
            List<String> archive = Files.exists(folder.resolve("classes.jsa"))
                    ? List.of("-XX:SharedArchiveFile=classes.jsa", "-Xlog:cds=off", "-Xlog:aot=off") : List.of();
            var builder = new ProcessBuilder(java(archive, "difyexec.DifyExec", arguments)).directory(folder.toFile())
                    .redirectErrorStream(true)
                    .redirectOutput(ProcessBuilder.Redirect.appendTo(folder.resolve("tool.out").toFile()));
            builder.environment().putAll(Map.of("DIFY_API_KEY", "app-chaos", "DIFY_API_BASE_URL", server.toString(),
                    "INITIAL_RETRY_DELAY", "200ms", "MAX_RETRY_DELAY", "2s", "TIMEOUT", timeout,
                    "MAX_RETRIES", maxRetries));
            return new Running(builder.start());
        }

        JsonNode verify(String results) throws IOException {
            var builder = new ProcessBuilder(java(List.of(), "difyexec.DifyExec",
                    List.of("verify", "-o", results, "--json"))).directory(folder.toFile())
                    .redirectError(ProcessBuilder.Redirect.INHERIT);
            builder.environment().putAll(Map.of("DIFY_API_KEY", "app-chaos", "DIFY_API_BASE_URL", server.toString()));
            return JSON.readTree(builder.start().getInputStream().readAllBytes());
        }

        static JsonNode status(Path folder) throws IOException {
            return JSON.readTree(output(folder, "status", "-i", "data.csv", "-o", "results.jsonl", "--json"));
        }

        /// Runs a command that needs no server and returns its output.
        static byte[] output(Path folder, String... command) throws IOException {
            var process = new ProcessBuilder(java(List.of(), "difyexec.DifyExec", List.of(command)))
                    .directory(folder.toFile()).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            return process.getInputStream().readAllBytes();
        }

        static void delete(Path folder) throws IOException {
            try (var files = Files.walk(folder)) {
                for (var file : files.sorted(Comparator.reverseOrder()).toList()) Files.delete(file);
            }
        }
    }

    record Running(Process process) implements AutoCloseable {
        /// Waits for the condition or for `millis`, and returns whether the process is still running.
        boolean runsUntil(long millis, BooleanSupplier condition) throws InterruptedException {
            long end = System.nanoTime() + millis * 1_000_000;
            while (System.nanoTime() < end && !condition.getAsBoolean())
                if (process.waitFor(5, TimeUnit.MILLISECONDS)) return false;
            return process.isAlive();
        }

        int join() throws InterruptedException {
            return process.waitFor();
        }

        void kill() throws InterruptedException {
            process.destroyForcibly().waitFor();
        }

        @Override
        public void close() {
            process.destroyForcibly();
        }
    }
}
