///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Breaks each route of a simulated Dify in each way, forever, and checks that every command ends.
//SOURCES ../../DifyExec.java
//SOURCES Given.java
//SOURCES SessionBound.java
//SOURCES Simulator.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import difyexec.SimulatedRoute.Breakage;
import difyexec.SimulatedRun.Version;
import difyexec.Simulator.Setup.Kind;
import picocli.CommandLine;
import picocli.CommandLine.*;
import picocli.CommandLine.Model.CommandSpec;

import module java.base;

import static difyexec.DifyExec.*;

/// Runs one command for each cell of the matrix: version, kind of app, mode, broken route and what breaks. The others
/// of the server's routes work. Then the route is repaired, and the same command continues.
@Command(name = "matrix", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = {"Break each route of a simulated Dify in each way, forever, while the other routes work. A "
                + "command must end within a bound that follows from its settings, with a documented exit code, and "
                + "no row may be paid for twice, not even by the next run, when the route works again. Exit code 1 if "
                + "a cell fails.", "",
                "A cell is named like '1.16.1 workflow run streaming look-up pings late'.", ""},
        footer = {"", "Example: benchmarks/matrix --only '1.16.1 .* (look-up|list) (pings|no-response)'"})
final class Matrix implements Callable<Integer> {
    /// Added to each bound, for a busy machine.
    private static final Duration SLACK = Duration.ofSeconds(30);

    @Option(names = "--only", paramLabel = "REGEX", defaultValue = "",
            description = "Only cells whose name contains REGEX (default: all).")
    Pattern only;

    @Option(names = "--at-once", paramLabel = "N", defaultValue = "40",
            description = "Run N cells at a time; most of them wait (default: ${DEFAULT-VALUE}).")
    int atOnce;

    @Option(names = "--folder", paramLabel = "DIR", description = "Keep the files of each cell in a folder of DIR.")
    Path folder;

    @Spec CommandSpec spec;

    static void main(String... args) {
        DifyExec.setProperties();
        System.exit(new CommandLine(new Matrix()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var out = spec.commandLine().getOut();
        var cells = cells().filter(cell -> only.matcher(cell.toString()).find()).toList();
        out.println("| cell | first: s (bound) | exit | next: s | exit | paid twice | rows | |");
        out.println("|---|--:|--:|--:|--:|--:|---|---|");
        int failed = 0;
        try (var pool = Executors.newFixedThreadPool(atOnce, Thread.ofPlatform().daemon().factory())) {
            var running = new ExecutorCompletionService<Outcome>(pool);
            cells.forEach(cell -> running.submit(() -> play(cell)));
            for (var _ : cells) {
                var outcome = running.take().get();
                if (!outcome.problems().isEmpty()) failed++;
                out.println(outcome.line());
                out.flush();
            }
        }
        out.println(cells.size() + " cells, " + failed + " failed");
        out.flush();
        return failed == 0 ? 0 : 1;
    }

    private Outcome play(Cell cell) throws Exception {
        if (folder != null) return cell.play(Files.createDirectories(folder.resolve(cell.toString())));
        var temporary = Files.createTempDirectory("matrix-");
        try {
            return cell.play(temporary);
        } finally {
            Given.delete(temporary);
        }
    }

    /// All cells whose command requests the broken route.
    static Stream<Cell> cells() {
        var cells = Stream.<Cell>builder();
        for (var version : List.of(Version.V1_16_1, Version.V1_9_2))
            for (var app : List.of(Kind.WORKFLOW, Kind.CHATFLOW))
                for (var words : List.of("run blocking", "run streaming", "verify streaming"))
                    for (var route : SimulatedRoute.values())
                        for (var breakage : Breakage.values())
                            for (boolean isLate : List.of(false, true)) cells.add(new Cell(version, app,
                                    words.split(" ")[0], words.split(" ")[1], route, breakage, isLate));
        return cells.build().filter(cell -> cell.breakage().suits(cell.route())).filter(Cell::isAsked);
    }

    // ── A cell ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @param command `run`, or `verify` after a run of the same rows
    /// @param isLate  the route breaks when the session has started its first row
    record Cell(Version version, Kind app, String command, String mode, SimulatedRoute route, Breakage breakage,
                boolean isLate) {
        /// A run that begins later than `SETTLE` after its request is paid for twice, so a busy machine needs more of it.
        private static final Duration TIMEOUT = Duration.ofSeconds(2), SETTLE = Duration.ofSeconds(10);
        private static final Duration DELAY = Duration.ofMillis(200);
        private static final int RETRIES = 1;
        /// What each row meets: nothing, a cut before or after its first event, a lost request, a failure that may pass
        /// and must be confirmed, a proxy's error, and a run that takes too long.
        private static final List<String> ROWS = List.of("plain", "[drop-before]", "[drop-after]", "[lost]", "[flaky]",
                "[gateway]", "[latency 60s]");

        @Override
        public String toString() {
            return Stream.of(version.number, app.name().toLowerCase(Locale.ROOT), command, isRun() ? mode : "",
                    route.word(), breakage.word(), isLate ? "late" : "").filter(word -> !word.isEmpty())
                    .collect(Collectors.joining(" "));
        }

        boolean isChatflow() {
            return app == Kind.CHATFLOW;
        }

        boolean isRun() {
            return command.equals("run");
        }

        private boolean isStreaming() {
            return mode.equals("streaming");
        }

        /// Returns whether the command requests this route at all.
        private boolean isAsked() {
            if (isLate) return isRun() && route == SimulatedRoute.INFO;
            return switch (route) {
                case INFO, LIST -> true;
                case FORM -> !command.equals("verify");
                case RUN, UPLOAD -> isRun();
                case LOOK_UP -> !isChatflow() || isStreaming();
                case MESSAGES -> isChatflow();
                case DOWNLOAD -> isRun() && (!isChatflow() || isStreaming()); // a blocking answer has no files
                case STOP -> isRun() && isStreaming(); // only streams name their task
            };
        }

        /// Returns the longest time of the command, from its settings.
        Duration bound() {
            boolean isSlow = breakage.takesForever() || route == SimulatedRoute.RUN && isStreaming();
            var requests = isSlow ? SessionBound.Requests.SLOWEST
                    : SessionBound.Requests.within(Duration.ofMillis(200));
            var bound = new SessionBound(TIMEOUT, SETTLE, DELAY, RETRIES, ROWS.size(),
                    isLate ? requests.withoutProbes() : requests);
            return isRun() ? bound.of(ROWS.size()) : bound.ofRequests(4 * ROWS.size());
        }

        Outcome play(Path folder) throws Exception {
            try (var batch = new Batch(this, folder)) {
                if (!isRun()) batch.call("run");
                batch.breakRoute();
                var first = batch.call(command);
                int broken = batch.dify.brokenResponses();
                batch.dify.repairRoutes();
                var next = first.exit().isPresent() && isRun() ? batch.call(command) : first;
                return Outcome.of(batch, first, next, broken);
            }
        }
    }

    /// One command. Without an exit code, it did not end.
    record Ended(OptionalInt exit, Duration took, String err) {}

    /// The files of a cell, and its server.
    private static final class Batch implements AutoCloseable {
        private static final String FORM = """
                [{"paragraph":{"variable":"id","label":"id","required":false}},
                 {"paragraph":{"variable":"text","label":"text","required":false}},
                 {"file":{"variable":"doc","label":"doc","required":false,"allowed_file_types":["document"],
                          "allowed_file_upload_methods":["local_file"]}}]""";

        final Cell cell;
        final SimulatedDify dify;
        private final Path folder;
        private final SimulatedServer server;

        Batch(Cell cell, Path folder) throws IOException {
            this.cell = cell;
            this.folder = folder;
            var form = Files.writeString(folder.resolve("form.json"), FORM);
            Files.writeString(folder.resolve("doc.txt"), "a document");
            var rows = new StringBuilder(cell.isChatflow() ? "id,query,doc\n" : "id,text,doc\n");
            for (int row = 0; row < Cell.ROWS.size(); row++) rows.append("r%d,%s,%s%n".formatted(row,
                    Cell.ROWS.get(row), cell.route() == SimulatedRoute.UPLOAD ? "@doc.txt" : ""));
            Files.writeString(folder.resolve("data.csv"), rows);
            dify = SimulatedDify.of("--dify", cell.version().number, "--app", cell.app().word(), "--form",
                    form.toString(), "--latency", "100ms", "--silence", "3s");
            dify.outputFiles();
            server = SimulatedServer.start(0, 0, dify);
        }

        void breakRoute() {
            dify.breakRoute(cell.route(), cell.breakage(), cell.isLate() ? 1 : 0);
        }

        /// Calls the command, and interrupts it when its time is over.
        Ended call(String command) throws InterruptedException {
            var settings = Map.of("DIFY_API_KEY", "app-matrix", "DIFY_API_BASE_URL", server.baseUrl().toString(),
                    "INITIAL_RETRY_DELAY", "50ms", "MAX_RETRY_DELAY", Cell.DELAY.toMillis() + "ms",
                    "TIMEOUT", "" + Cell.TIMEOUT.toSeconds(), "MAX_RETRIES", "" + Cell.RETRIES);
            var words = new ArrayList<>(List.of(command, "-o", folder.resolve("results.jsonl").toString()));
            if (command.equals("run")) {
                words.addAll(List.of("-i", folder.resolve("data.csv").toString(), "--mode", cell.mode(),
                        "--settle", "" + Cell.SETTLE.toSeconds(), "-c", "" + Cell.ROWS.size(), "--progress", "off"));
                if (cell.route() == SimulatedRoute.DOWNLOAD)
                    words.addAll(List.of("--save-files", folder.resolve("files").toString()));
            }
            var err = new StringWriter();
            var exit = new AtomicReference<>(OptionalInt.empty());
            var args = words.toArray(String[]::new);
            var caller = Thread.ofPlatform().daemon().name(cell.toString()).start(() -> exit.set(OptionalInt.of(
                    commandLine(Given.env(settings), args).setOut(new PrintWriter(Writer.nullWriter()))
                            .setErr(new PrintWriter(err, true)).execute(args))));
            long start = System.nanoTime();
            boolean hasEnded = caller.join(cell.bound().plus(SLACK));
            var took = Duration.ofNanos(System.nanoTime() - start);
            var code = exit.get();
            if (!hasEnded) {
                caller.interrupt();
                caller.join(Duration.ofSeconds(5));
            }
            return new Ended(hasEnded ? code : OptionalInt.empty(), took, err.toString());
        }

        List<JsonNode> results() throws IOException {
            var file = folder.resolve("results.jsonl");
            var lines = new ArrayList<JsonNode>();
            if (Files.exists(file)) for (var line : Files.readString(file).replace("\uFEFF", "").lines().toList())
                lines.add(Given.tree(line));
            return lines;
        }

        /// Returns whether a result is that of its own row.
        boolean isRight(JsonNode result) {
            int row = Integer.parseInt(result.path("id").asText().substring(1));
            return result.path("outputs").path("answer").asText().contains(Cell.ROWS.get(row));
        }

        @Override
        public void close() throws IOException {
            server.close();
        }
    }

    /// @param first  the command with the broken route
    /// @param next   the next run, with all routes
    /// @param broken how many responses were broken
    record Outcome(Cell cell, Ended first, Ended next, int twice, String rows, List<String> problems) {
        private static final Set<Integer> DOCUMENTED = Stream.of(Exit.values()).filter(exit -> exit != Exit.BUG)
                .map(exit -> exit.code).collect(Collectors.toSet());

        static Outcome of(Batch batch, Ended first, Ended next, int broken) throws IOException {
            var results = batch.results();
            var problems = new ArrayList<String>();
            // a session that has started asks for it only after failures
            if (broken == 0 && !batch.cell.isLate()) problems.add("the route was never requested");
            for (var ended : next == first ? List.of(first) : List.of(first, next)) {
                var when = ended == first ? "" : "the next run ";
                if (ended.exit().isEmpty()) problems.add(when + "did not end within "
                        + ended.took().toSeconds() + " s");
                else if (!DOCUMENTED.contains(ended.exit().getAsInt())) problems.add(when + "ended with exit code "
                        + ended.exit().getAsInt() + ": " + ended.err().lines().limit(4).toList());
            }
            int twice = batch.dify.count("twice");
            if (twice > 0) problems.add(twice + " rows are paid for twice");
            if (!results.stream().allMatch(batch::isRight)) problems.add("a result is of another row");
            var rows = results.size() + " of " + Cell.ROWS.size() + " succeeded";
            if (next.exit().equals(OptionalInt.of(Exit.OK.code)) && batch.cell.isRun()
                    && results.stream().map(line -> line.path("id")).distinct().count() < Cell.ROWS.size())
                problems.add("exit code 0, but " + rows);
            return new Outcome(batch.cell, first, next, twice, rows, problems);
        }

        /// A line of the table.
        String line() {
            return "| " + Stream.of(cell, seconds(first.took()) + " (" + cell.bound().toSeconds() + ")", code(first),
                    next == first ? "" : seconds(next.took()), next == first ? "" : code(next), twice, rows,
                    String.join("; ", problems)).map(Object::toString).collect(Collectors.joining(" | ")) + " |";
        }

        private static String seconds(Duration time) {
            return "%.1f".formatted(time.toMillis() / 1e3);
        }

        private static String code(Ended ended) {
            return ended.exit().isPresent() ? "" + ended.exit().getAsInt() : "none";
        }
    }
}
