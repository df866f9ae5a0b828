///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Compares speed and processor time with 0.2.0 and the last release, and large batches with small ones.
//SOURCES ../DifyExec.java
//SOURCES ../tests/support/Simulator.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.joining;

/// Runs the tool in a process per batch, as a user does: this checkout, the last release and 0.2.0 take turns, so that
/// a busy machine slows all of them. They share one server, in the benchmark's own process, whose answers are made
/// beforehand: what is measured is the tool.
@Command(name = "pace", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = {"Compare speed and processor time with 0.2.0 and the last release, and a large batch with a "
                + "small one; print a Markdown table. Needs Git and a system with /proc. Exit code 1 if a bar is "
                + "missed.", ""},
        footer = {"", "Example: benchmarks/pace --runs 1 --only burst"})
final class Pace implements Callable<Integer> {
    private static final Release OLD = new Release("0.2.0", "f1795d7"), LAST = new Release("0.6.0", "9a3f2c9"),
            HERE = new Release("here", "");

    @Option(names = "--runs", paramLabel = "N", defaultValue = "5",
            description = "Measure N times and use the medians (default: ${DEFAULT-VALUE}).")
    int runs;

    @Option(names = "--only", paramLabel = "WORD", defaultValue = "",
            description = "Measure only rows of the table whose name contains WORD.")
    String only;

    @Option(names = "--java-option", paramLabel = "OPTION",
            description = "Add an option of java for the tool of this checkout, such as a profiler's.")
    List<String> javaOptions = List.of();

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(new CommandLine(new Pace()).execute(args));
    }

    /// @param commit empty: this checkout
    record Release(String name, String commit) {}

    @Override
    public Integer call() throws Exception {
        var measures = measures().filter(measure -> measure.name().contains(only)).toList();
        if (measures.isEmpty()) {
            spec.commandLine().getErr().println("pace: no row of the table has a name that contains " + only);
            return 2;
        }
        var root = Files.createTempDirectory("pace-");
        var bench = new Bench(root, new TreeMap<>(), new HashMap<>());
        Runtime.getRuntime().addShutdownHook(new Thread(() -> delete(root)));
        for (var release : List.of(OLD, LAST, HERE))
            bench.tools().put(release.name(), Tool.of(release, root, javaOptions));
        say(machine());
        var lines = new ArrayList<String>();
        boolean isMet = true;
        for (var measure : measures) {
            var rounds = new ArrayList<Map<String, Figures>>();
            for (int run = 0; run < runs; run++) rounds.add(round(bench, measure, run));
            for (var bar : measure.bars()) {
                lines.add(bar.line(measure.name(), rounds));
                isMet &= bar.isMet(rounds);
            }
        }
        print(machine() + "; " + (runs == 1 ? "one run." : "medians of " + runs + " runs.") + "\n");
        print("| name | what | 0.2.0 | 0.6.0 | here | compared | bar | met | all runs |\n"
                + "|---|---|--:|--:|--:|--:|--:|---|--:|");
        lines.forEach(this::print);
        return isMet ? 0 : 1;
    }

    /// Each tool once, in an order that turns around from run to run.
    private Map<String, Figures> round(Bench bench, Measure measure, int run) throws Exception {
        var order = new ArrayList<>(measure.releases());
        if (run % 2 == 1) Collections.reverse(order);
        var round = new HashMap<String, Figures>();
        for (var release : order) {
            var figures = measure.method().of(bench, bench.tools().get(release.name()));
            round.put(release.name(), figures);
            say(measure.name() + " " + (run + 1) + "/" + runs + " " + release.name() + ": " + figures.values());
        }
        return round;
    }

    private void print(String line) {
        spec.commandLine().getOut().println(line);
        spec.commandLine().getOut().flush();
    }

    private void say(String line) {
        spec.commandLine().getErr().println(line);
        spec.commandLine().getErr().flush();
    }

    static String machine() throws IOException {
        return LocalDate.now(ZoneOffset.UTC) + ", " + Runtime.getRuntime().availableProcessors() + " cores, JDK "
                + System.getProperty("java.runtime.version") + ", load "
                + Files.readString(Path.of("/proc/loadavg")).split(" ")[0];
    }

    static void delete(Path root) {
        try (var files = Files.walk(root)) {
            for (var file : files.sorted(Comparator.reverseOrder()).toList()) Files.deleteIfExists(file);
        } catch (IOException | UncheckedIOException _) {
            // a process was still writing; the system clears its temporary folder
        }
    }

    // ── Measures ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// What one process showed, by name.
    record Figures(Map<String, Double> values) {
        double of(String name) {
            return values.get(name);
        }
    }

    @FunctionalInterface interface Method {
        Figures of(Bench bench, Tool tool) throws Exception;
    }

    /// What is compared: this checkout with 0.2.0, or what this checkout shows with a fixed number.
    enum Basis { SHARE, TIMES, ITSELF }

    /// @param figure the name of the figure
    /// @param least  the figure is at least the bar; else at most
    record Bar(String what, String figure, Basis basis, boolean least, double bar) {
        boolean isMet(List<Map<String, Figures>> rounds) {
            double value = median(compared(rounds));
            return least ? value >= bar : value <= bar;
        }

        private double[] compared(List<Map<String, Figures>> rounds) {
            return rounds.stream().mapToDouble(round -> round.get(HERE.name()).of(figure)
                    / (basis == Basis.ITSELF ? 1 : round.get(OLD.name()).of(figure))).toArray();
        }

        String line(String name, List<Map<String, Figures>> rounds) {
            var releases = Stream.of(OLD, LAST, HERE).map(release -> !rounds.getFirst().containsKey(release.name())
                    ? "" : number(median(rounds.stream().mapToDouble(round -> round.get(release.name()).of(figure))
                    .toArray()))).toList();
            var compared = compared(rounds);
            return "| " + name + " | " + what + " | " + String.join(" | ", releases) + " | "
                    + number(median(compared)) + " | " + (least ? "≥ " : "≤ ") + bar + " | "
                    + (isMet(rounds) ? "yes" : "**no**") + " | "
                    + DoubleStream.of(compared).mapToObj(Bar::number).collect(joining(", ")) + " |";
        }

        static double median(double... values) {
            var sorted = DoubleStream.of(values).sorted().toArray();
            int middle = sorted.length / 2;
            return sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
        }

        private static String number(double value) {
            return String.format(Locale.ROOT, Math.abs(value) < 10 ? "%.3f" : "%,.0f", value);
        }
    }

    record Measure(String name, List<Release> releases, Method method, List<Bar> bars) {
        static Measure ofAll(String name, Method method, Bar... bars) {
            return new Measure(name, List.of(OLD, LAST, HERE), method, List.of(bars));
        }
    }

    private static Bar rate(double share) {
        return new Bar("rows/s", "rate", Basis.SHARE, true, share);
    }

    private static Bar processor() {
        return new Bar("processor time per row, in ms", "processor", Basis.TIMES, false, 1.3);
    }

    private static Stream<Measure> measures() {
        return Stream.of(
                Measure.ofAll("single", (bench, tool) -> bench.burst(tool, "blocking", 1, 10_000), rate(0.75)),
                Measure.ofAll("burst-blocking", (bench, tool) -> bench.burst(tool, "blocking", 64, 30_000), rate(0.7),
                        processor()),
                Measure.ofAll("burst-streaming", (bench, tool) -> bench.burst(tool, "streaming", 64, 30_000),
                        rate(0.75), processor()),
                Measure.ofAll("retry", Bench::retry, new Bar("`retry` of 8,000 rows: rows/s", "rate", Basis.SHARE,
                        true, 0.8)),
                Measure.ofAll("wide", Bench::wide, new Bar("2,000 rows × 1 s, `-c 200`: rows/s", "rate", Basis.SHARE,
                        true, 0.98)),
                Measure.ofAll("status", Bench::status, new Bar("`status` of 50,000 rows: seconds more than "
                        + "`--version`", "beyond", Basis.ITSELF, false, 0.5)),
                new Measure("growth", List.of(LAST, HERE), Bench::growth, List.of(new Bar("2,000 of 1,000,000 rows × "
                        + "1 s, `-c 200`: processor time per row relative to a batch of 5,000", "growth",
                        Basis.ITSELF, false, 1.3),
                        new Bar("the same: peak memory in MB", "memory", Basis.ITSELF, false, 200))));
    }

    /// @param done a finished batch of each tool that needed one
    record Bench(Path root, Map<String, Tool> tools, Map<String, Path> done) {
        private Figures burst(Tool tool, String mode, int clients, int rows) throws Exception {
            return batch(tool, "burst-" + mode, rows, new Server(Duration.ZERO, false), "--mode", mode, "-c",
                    String.valueOf(clients));
        }

        private Figures wide(Tool tool) throws Exception {
            return batch(tool, "wide", 2000, new Server(Duration.ofSeconds(1), false), "-c", "200");
        }

        private Figures growth(Tool tool) throws Exception {
            var options = new String[] {"-c", "200", "--limit", "2000"};
            var small = batch(tool, "small", 5000, new Server(Duration.ofSeconds(1), false), options);
            var large = batch(tool, "large", 1_000_000, new Server(Duration.ofSeconds(1), false), options);
            return new Figures(Map.of("growth", large.of("processor") / small.of("processor"),
                    "memory", large.of("memory"), "small", small.of("processor"), "large", large.of("processor")));
        }

        /// Runs a new batch. Its rate counts from the first request to the last answer, its processor time from the
        /// first request to the end of the process.
        private Figures batch(Tool tool, String name, int rows, Server server, String... options) throws Exception {
            var folder = folder(name);
            Data.write(folder.resolve("data.csv"), rows);
            try (server) {
                var end = tool.call(folder, server, 0, "run", options);
                delete(folder);
                return figures(server, end);
            }
        }

        static Figures figures(Server server, Tool.End end) {
            return new Figures(Map.of("rate", server.rate(), "processor", end.processor() * 1000 / server.count(),
                    "memory", end.memory(), "seconds", end.seconds()));
        }

        /// The rows fail first, on the same server: a batch belongs to one address.
        private Figures retry(Tool tool) throws Exception {
            var folder = folder("retry");
            Data.write(folder.resolve("data.csv"), 8000);
            try (var server = new Server(Duration.ZERO, true)) {
                tool.call(folder, server, 3, "run", "-c", "64", "--mode", "blocking", "--max-failures", "100000");
                server.mend();
                return figures(server, tool.call(folder, server, 0, "retry", "-c", "64", "--mode", "blocking"));
            } finally {
                delete(folder);
            }
        }

        /// 100,000 lines of the log up to 0.3.0: an attempt and an end for each row. Now the result's line is the end.
        private Figures status(Tool tool) throws Exception {
            var folder = done(tool);
            var version = tool.start(folder, "--version").seconds();
            var status = tool.start(folder, "status", "-o", "results.jsonl").seconds();
            return new Figures(Map.of("beyond", status - version, "version", version));
        }

        /// A finished batch in the tool's own format, run once for all runs of a measure.
        private Path done(Tool tool) throws Exception {
            if (!done.containsKey(tool.name())) try (var server = new Server(Duration.ZERO, false)) {
                var folder = folder("done");
                Data.write(folder.resolve("data.csv"), 50_000);
                tool.call(folder, server, 0, "run", "-c", "64", "--mode", "blocking");
                done.put(tool.name(), folder);
            }
            return done.get(tool.name());
        }

        private Path folder(String name) throws IOException {
            return Files.createTempDirectory(root, name + "-");
        }
    }

    /// All ids have the same length.
    static final class Data {
        static void write(Path file, int rows) throws IOException {
            try (var out = Files.newBufferedWriter(file)) {
                out.write("id,text\n");
                for (int row = 1; row <= rows; row++) {
                    var id = "row-" + (10_000_000 + row);
                    out.write(id + ",\"Please translate this sentence of " + id + ", which is not a long one.\"\n");
                }
            }
        }
    }

    // ── The tool ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A version of the tool, called in a process with the JVM options of its header, as `jbang` would.
    record Tool(String name, List<String> java) {
        /// Old versions are built in a clone of their own.
        static Tool of(Release release, Path root, List<String> more) throws Exception {
            var home = Path.of(Objects.requireNonNullElse(System.getenv("DIFYEXEC_HOME"), ".")).toAbsolutePath();
            var checkout = home;
            if (!release.commit().isEmpty()) {
                checkout = root.resolve(release.name());
                output(root, "git", "clone", "--quiet", "--shared", "--no-checkout", home.toString(),
                        checkout.toString());
                output(checkout, "git", "checkout", "--quiet", release.commit());
            }
            output(checkout, "./jbang", "build", "DifyExec.java");
            var classes = output(checkout, "./jbang", "info", "classpath", "DifyExec.java").strip();
            var jar = root.resolve(release.name() + ".jar"); // JBang replaces its own when this checkout changes
            Files.copy(Path.of(classes.substring(0, classes.indexOf(File.pathSeparator))), jar);
            classes = jar + classes.substring(classes.indexOf(File.pathSeparator));
            var java = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
            try (var lines = Files.lines(checkout.resolve("DifyExec.java"))) {
                lines.takeWhile(line -> !line.isBlank()).filter(line -> line.startsWith("//RUNTIME_OPTIONS "))
                        .flatMap(line -> Stream.of(line.split(" +")).skip(1)).forEach(java::add);
            }
            if (release.commit().isEmpty()) java.addAll(more);
            java.addAll(List.of("-cp", classes, "difyexec.DifyExec"));
            return new Tool(release.name(), java);
        }

        private static String output(Path folder, String... command) throws Exception {
            var process = clean(new ProcessBuilder(command)).directory(folder.toFile())
                    .redirectError(ProcessBuilder.Redirect.INHERIT).start();
            var output = new String(process.getInputStream().readAllBytes(), UTF_8);
            if (process.waitFor() != 0) throw new IllegalStateException(String.join(" ", command) + " failed");
            return output;
        }

        /// Without the caller's settings, which would change the figures.
        private static ProcessBuilder clean(ProcessBuilder builder) {
            builder.environment().keySet().removeIf(name -> name.startsWith("DIFY") || name.toUpperCase(Locale.ROOT)
                    .endsWith("_PROXY") || Set.of("MAX_RETRIES", "INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY", "TIMEOUT",
                    "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS").contains(name));
            return builder;
        }

        /// @param processor seconds from the first request on, or of the whole call
        /// @param memory    resident at most, in MB
        record End(double seconds, double processor, double memory) {}

        End call(Path folder, Server server, int exit, String command, String... options) throws Exception {
            var words = new ArrayList<>(List.of(command, "-i", "data.csv", "-o", "results.jsonl", "--base-url",
                    server.address()));
            words.addAll(List.of(options));
            return start(folder, server, exit, words);
        }

        End start(Path folder, String... words) throws Exception {
            try (var unused = new Server(Duration.ZERO, false)) {
                return start(folder, unused, 0, List.of(words));
            }
        }

        private End start(Path folder, Server server, int exit, List<String> words) throws Exception {
            var command = new ArrayList<>(java);
            command.addAll(words);
            var out = folder.resolve("out").toFile();
            var builder = clean(new ProcessBuilder(command)).directory(folder.toFile()).redirectErrorStream(true)
                    .redirectOutput(out);
            builder.environment().put("DIFY_API_KEY", "app-pace");
            long began = System.nanoTime();
            var process = builder.start();
            var usage = new Usage(process.pid(), server);
            while (!process.waitFor(5, TimeUnit.MILLISECONDS)) usage.read();
            double seconds = (System.nanoTime() - began) / 1e9;
            if (process.exitValue() != exit) throw new IllegalStateException(name + " ended with exit code "
                    + process.exitValue() + ": " + Files.readString(out.toPath()));
            return new End(seconds, usage.last - usage.before, usage.peak);
        }
    }

    /// What the kernel says about a process while it runs; its last milliseconds are missed.
    private static final class Usage {
        private static final double TICKS = 100; // a second, on every Linux

        private final Path folder;
        private final Server server;
        double before = 0, last = 0, peak = 0;

        Usage(long process, Server server) {
            this.folder = Path.of("/proc/" + process);
            this.server = server;
        }

        void read() {
            try {
                var stat = Files.readString(folder.resolve("stat"));
                var fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
                last = (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / TICKS;
                if (server.count() == 0) before = last;
                Files.readString(folder.resolve("status")).lines().filter(line -> line.startsWith("VmHWM:"))
                        .forEach(line -> peak = Long.parseLong(line.replaceAll("\\D", "")) / 1024.0);
            } catch (IOException _) {
                // the process has just ended
            }
        }
    }

    // ── The server ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Answers every run alike, after `latency`. The answers are the simulator's, with all fields of Dify 1.14.2; only
    /// the attempt's user and the run's id differ. A whole Dify, even a simulated one, would need more time than the
    /// tool.
    static final class Server implements AutoCloseable {
        private static final String USER = "difyexec-user-of-the-attempt", RUN = "run-of-the-attempt";
        private static final String BLOCKING = blocking(true), FAILED = blocking(false), STREAMING = streaming();
        private static final Pattern ASKED = Pattern.compile("\"user\": ?\"([^\"]*)\""),
                STREAMED = Pattern.compile("\"response_mode\": ?\"streaming\"");

        private final ServerSocket socket = new ServerSocket(0, 1024, InetAddress.getLoopbackAddress());
        private final Set<Socket> open = ConcurrentHashMap.newKeySet();
        private final Duration latency;
        private volatile boolean fails;
        private final AtomicLong count = new AtomicLong(), first = new AtomicLong(), last = new AtomicLong();

        Server(Duration latency, boolean fails) throws IOException {
            this.latency = latency;
            this.fails = fails;
            Thread.ofVirtual().start(this::accept);
        }

        private static SimulatedRun run(boolean succeeds) {
            var now = Instant.parse("2026-01-16T12:00:00Z");
            var app = SimulatedRun.App.of(SimulatedRun.Version.V1_14_2, UUID.nameUUIDFromBytes(new byte[0]).toString());
            var inputs = SimulatedJson.object("id", "row", "text", "some text");
            var run = SimulatedRun.begin(app, USER, inputs, Optional.empty(), now);
            return run.end(succeeds ? new SimulatedRun.State.Succeeded(SimulatedJson.object("answer",
                    "The answer of a model to a sentence that is not a long one.", "row_id", "row"))
                    : new SimulatedRun.State.Failed("Run failed: the model refused this input"), 42,
                    now.plusMillis(1234));
        }

        private static String blocking(boolean succeeds) {
            var run = run(succeeds);
            return SimulatedJson.SPACED.json(run.blocking()).replace(run.id(), RUN);
        }

        private static String streaming() {
            var run = run(true);
            return "event: ping\n\n" + Stream.concat(run.opening().stream(), run.closing().stream())
                    .map(event -> "data: " + SimulatedJson.COMPACT.json(event) + "\n\n").collect(joining())
                    .replace(run.id(), RUN);
        }

        void mend() {
            fails = false;
            count.set(0);
            first.set(0);
        }

        String address() {
            return "http://127.0.0.1:" + socket.getLocalPort() + "/v1";
        }

        long count() {
            return count.get();
        }

        double rate() {
            return (count.get() - 1) * 1e9 / (last.get() - first.get());
        }

        private void accept() {
            try {
                while (true) {
                    var client = socket.accept();
                    open.add(client);
                    Thread.startVirtualThread(() -> serve(client));
                }
            } catch (IOException _) {
                // closed
            }
        }

        private void serve(Socket client) {
            try (client) {
                client.setTcpNoDelay(true);
                var in = new BufferedInputStream(client.getInputStream());
                for (var head = head(in); !head.isEmpty(); head = head(in)) {
                    var length = head.lines().filter(line -> line.toLowerCase(Locale.ROOT)
                            .startsWith("content-length:")).findFirst().map(line -> line.substring(15).strip());
                    var body = new String(in.readNBytes(length.map(Integer::parseInt).orElse(0)), UTF_8);
                    client.getOutputStream().write(answer(head, body).getBytes(UTF_8));
                    if (head.startsWith("POST")) last.set(System.nanoTime());
                }
            } catch (IOException | InterruptedException _) {
                // the tool has left
            } finally {
                open.remove(client);
            }
        }

        /// Up to the blank line; empty if the client has closed.
        private static String head(InputStream in) throws IOException {
            var head = new StringBuilder();
            for (int c = in.read(); c >= 0; c = in.read()) {
                head.append((char) c);
                if (c == '\n' && head.length() > 3 && head.charAt(head.length() - 3) == '\n') return head.toString();
            }
            return "";
        }

        private String answer(String head, String body) throws InterruptedException {
            if (head.startsWith("GET /v1/info")) return json("{\"name\":\"pace\",\"description\":\"\",\"tags\":[],"
                    + "\"mode\":\"workflow\",\"author_name\":\"pace\"}");
            if (head.startsWith("GET /v1/parameters")) return json("{\"user_input_form\":[" + Stream.of("id", "text")
                    .map("{\"paragraph\":{\"variable\":\"%1$s\",\"label\":\"%1$s\",\"required\":false}}"::formatted)
                    .collect(joining(",")) + "],\"system_parameters\":{}}");
            // the runs that failed are looked up before their rows are sent again
            if (head.startsWith("GET /v1/workflows/run/")) return json("{\"id\":\"" + head.split("[/ ]")[5]
                    + "\",\"workflow_id\":\"pace\",\"status\":\"failed\",\"inputs\":null,\"outputs\":null,\"error\":\"Run "
                    + "failed: the model refused this input\",\"total_steps\":3,\"total_tokens\":42,"
                    + "\"elapsed_time\":1.234,\"created_at\":1768564800,\"finished_at\":1768564801}");
            if (head.startsWith("GET")) return json("{\"page\":1,\"limit\":20,\"total\":0,\"has_more\":false,"
                    + "\"data\":[]}");
            first.compareAndSet(0, System.nanoTime());
            // each id is new, also after [#mend], because a run belongs to one row
            var run = String.format("%08x-%04d-4000-8000-000000000000", count.incrementAndGet(), fails ? 1 : 0);
            var user = ASKED.matcher(body);
            var asked = user.find() ? user.group(1) : "";
            if (latency.isPositive()) Thread.sleep(latency);
            return STREAMED.matcher(body).find()
                    ? stream(STREAMING.replace(USER, asked).replace(RUN, run))
                    : json((fails ? FAILED : BLOCKING).replace(USER, asked).replace(RUN, run));
        }

        private static String json(String body) {
            return whole("application/json", "Content-Length: " + body.getBytes(UTF_8).length + "\r\n\r\n" + body);
        }

        private static String stream(String events) {
            return whole("text/event-stream; charset=utf-8", "Transfer-Encoding: chunked\r\n\r\n"
                    + Integer.toHexString(events.getBytes(UTF_8).length) + "\r\n" + events + "\r\n0\r\n\r\n");
        }

        private static String whole(String type, String rest) {
            return "HTTP/1.1 200 OK\r\nServer: pace\r\nDate: " + DateTimeFormatter.RFC_1123_DATE_TIME
                    .format(ZonedDateTime.now(ZoneOffset.UTC)) + "\r\nX-Version: 1.14.2\r\nX-Env: PRODUCTION\r\n"
                    + "Content-Type: " + type + "\r\n" + rest;
        }

        @Override
        public void close() throws IOException {
            socket.close();
            for (var client : open) client.close();
        }
    }
}
