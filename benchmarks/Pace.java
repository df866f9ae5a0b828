///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Measures throughput, memory, start-up time and behaviour under faults against fixed limits.
//SOURCES ../tests/Simulator.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.joining;

/// Runs the tool in one process per batch, as a user does, and compares each figure with a limit. Throughput is a
/// ratio: `wrk` loads the same server just before and just after the tool, so a busy machine slows both.
///
/// The servers are nginx with static answers (no latency) and [Simulator] in its own process (latency, limits).
@Command(name = "pace", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = {"Measure throughput, memory, start-up time and behaviour under faults; print a Markdown table.",
                "Needs nginx and wrk; root on a system with apt-get gets them installed. Exit code 1 if a limit is "
                        + "missed.", ""},
        footer = {"", "Example: benchmarks/pace --runs 1 --only admits,rate"})
final class Pace implements Callable<Integer> {
    @Option(names = "--runs", paramLabel = "N", defaultValue = "3",
            description = "Measure N times and show medians (default: ${DEFAULT-VALUE}).")
    int runs;

    @Option(names = "--only", paramLabel = "NAME", split = ",", arity = "1..*",
            description = "Measure only these rows of the table, by name or prefix (see --list).")
    List<String> only = List.of();

    @Option(names = "--list", description = "List the rows and their limits, and exit.")
    boolean list;

    @Option(names = "--quick",
            description = "Run a twentieth of the rows to check that everything works; ignore the figures.")
    boolean quick;

    @Option(names = "--java-option", paramLabel = "OPTION",
            description = "Add a JVM option for the tool, such as a profiler or a heap size; %%n is replaced with the "
                    + "number of the process.")
    List<String> javaOptions = List.of();

    @Option(names = "--folder", paramLabel = "DIR",
            description = "Keep all files in DIR (default: a temporary folder, deleted at the end).")
    Path folder;

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(new CommandLine(new Pace()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var measures = Measure.all().stream().filter(this::isAskedFor).toList();
        if (list) measures.forEach(measure -> measure.limits().forEach(limit -> print(measure.name() + ": "
                + limit.what() + ": " + limit.text())));
        if (list || measures.isEmpty()) return list ? 0 : refuseNames();
        var programs = Programs.find();
        try (var bench = Bench.open(Optional.ofNullable(folder), programs, quick, javaOptions)) {
            var machine = Machine.here(programs, bench.tool());
            var rows = measures.stream().map(measure -> new Row(measure, new ArrayList<>())).toList();
            for (int run = 1; run <= runs; run++) for (var row : rows) {
                var view = row.measure().view(bench);
                row.runs().add(view);
                spec.commandLine().getErr().println(row.measure().name() + " " + run + "/" + runs + ": " + view);
                spec.commandLine().getErr().flush();
            }
            print(machine + "; " + (runs == 1 ? "one run" : "medians of " + runs + " runs")
                    + (quick ? " with a twentieth of the rows" : "") + ".\n");
            print("| name | measure | limit | median | met | all runs | details |");
            print("|---|---|--:|--:|---|--:|---|");
            rows.forEach(row -> row.lines().forEach(this::print));
            return rows.stream().allMatch(Row::isMet) ? 0 : 1;
        }
    }

    private boolean isAskedFor(Measure measure) {
        return only.isEmpty() || only.stream().anyMatch(name -> measure.name().startsWith(name.strip()));
    }

    private int refuseNames() {
        spec.commandLine().getErr().println("pace: no row named " + String.join(" or ", only)
                + "\nhint: list the rows with --list");
        return 2;
    }

    private void print(String line) {
        spec.commandLine().getOut().println(line);
        spec.commandLine().getOut().flush();
    }

    // ── Measures ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A minimum (`atLeast`) or a maximum.
    record Limit(String what, boolean atLeast, double bound, String unit) {
        static Limit atLeast(String what, double bound, String unit) {
            return new Limit(what, true, bound, unit);
        }

        static Limit atMost(String what, double bound, String unit) {
            return new Limit(what, false, bound, unit);
        }

        boolean isMet(double value) {
            return atLeast ? value >= bound : value <= bound;
        }

        String text() {
            return (atLeast ? "≥ " : "≤ ") + number(bound) + unit;
        }

        String text(double value) {
            return number(value) + unit;
        }

        /// Three significant digits; whole numbers in full.
        private static String number(double value) {
            if (value == Math.rint(value)) return String.format(Locale.ROOT, "%.0f", value);
            double size = Math.abs(value);
            return String.format(Locale.ROOT, size < 1 ? "%.3f" : size < 10 ? "%.2f" : "%.1f", value);
        }
    }

    /// A figure, with details of the run it comes from.
    record Sample(double value, String detail) {}

    /// One run of a measure: a sample for each of its limits, or the reason why it is invalid.
    sealed interface RunView {
        record Done(List<Sample> samples) implements RunView {
            @Override
            public String toString() {
                return samples.stream().map(sample -> Limit.number(sample.value()) + " (" + sample.detail() + ")")
                        .collect(joining("; "));
            }
        }

        record Invalid(String why) implements RunView {
            @Override
            public String toString() {
                return "invalid: " + why;
            }
        }
    }

    /// The figures of a run mean nothing, because rows are missing or a program failed.
    static final class InvalidRunException extends RuntimeException {
        InvalidRunException(String why) {
            super(why);
        }
    }

    @FunctionalInterface
    interface Method {
        List<Sample> measure(Bench bench) throws IOException, InterruptedException;
    }

    /// @param limits one for each sample of `method`
    record Measure(String name, Method method, List<Limit> limits) {
        private static Measure of(String name, Method method, Limit... limits) {
            return new Measure(name, method, List.of(limits));
        }

        static List<Measure> all() {
            var all = new ArrayList<Measure>();
            for (var version : List.of("1.14.2", "1.9.2")) for (var mode : List.of("blocking", "streaming"))
                all.add(of("steady-" + version + "-" + mode, bench -> steady(bench, version, mode),
                        Limit.atLeast("3,000 rows × 100 ms, `-c 10`, " + mode + ", " + version
                                + ": rows/s relative to `wrk -c10`" + (closesEarly(version, mode)
                                ? " (blocking, because `wrk` would wait for the stream to close)" : ""), 0.96, "")));
            all.addAll(List.of(
                    of("wide", Pace::wide,
                            Limit.atLeast("2,000 rows × 1 s, `-c 200`: ideal 10 s / actual time", 0.93, "")),
                    of("burst-blocking", bench -> burst(bench, "blocking", 64),
                            Limit.atLeast("60,000 rows, no latency, `-c 64`, blocking: rows/s relative to `wrk -c64`",
                                    0.09, "")),
                    of("burst-streaming", bench -> burst(bench, "streaming", 64),
                            Limit.atLeast("the same, streaming", 0.07, "")),
                    of("single", bench -> burst(bench, "blocking", 1),
                            Limit.atLeast("60,000 rows, no latency, `-c 1`, blocking: rows/s relative to `wrk -c1`",
                                    0.22, "")),
                    of("admits", Pace::admits,
                            Limit.atLeast("server that admits 4 runs, `-c 32`, 400 rows × 200 ms: ideal 20 s / actual "
                                    + "time", 0.9, ""),
                            Limit.atMost("the same: refused requests", 50, "")),
                    of("door", Pace::door,
                            Limit.atLeast("server with 10 connections, 500 rows × 300 ms, blocking, `--timeout 15`: "
                                    + "rows/s with `-c 20` relative to `-c 10`", 0.9, ""),
                            Limit.atMost("the same: rows not succeeded", 0, "")),
                    of("million", Pace::million,
                            Limit.atMost("1,000,000-row CSV, `--limit 5000`, `-c 64`: peak RSS", 200, " MB"),
                            Limit.atMost("the same: increase over 10,000 rows", 64, " MB")),
                    of("resume", Pace::resume,
                            Limit.atMost("resume 1,000,000 rows with 999,000 done: time to the first run", 12, " s"),
                            Limit.atMost("the same: peak RSS", 200, " MB")),
                    of("retry", Pace::retry,
                            Limit.atMost("retry 8,000 rows, no latency, `-c 64`: time beyond `--version`", 3, " s")),
                    of("status", Pace::status,
                            Limit.atMost("`status` with 100,000 results: time beyond `--version`", 1, " s")),
                    of("check", Pace::check,
                            Limit.atMost("`check` of 100,000 rows × 10 columns: time beyond `--version`", 1.2, " s"),
                            Limit.atMost("the same: peak RSS", 150, " MB")),
                    of("files", Pace::files,
                            Limit.atMost("20 rows with a 20 MB file each, `-c 8`: increase in peak RSS", 60, " MB")),
                    of("rate", Pace::rate,
                            Limit.atLeast("`--rate 10/s`: smallest gap between starts", 80, " ms"),
                            Limit.atMost("the same: error of the mean gap", 2, " %")),
                    of("down-refused", bench -> down(bench, Gate.State.REFUSING),
                            Limit.atMost("server down for 60 s (connections refused): rows not succeeded", 0, ""),
                            Limit.atMost("the same: concurrent probes", 1, "")),
                    of("down-502", bench -> down(bench, Gate.State.BAD_GATEWAY),
                            Limit.atMost("the same behind a proxy that answers 502: rows not succeeded", 0, ""),
                            Limit.atMost("the same: concurrent probes", 1, "")),
                    of("restart", Pace::restart,
                            Limit.atMost("server restarted during 5 of 60 rows, whose runs stay `running`; 0.2 s per "
                                    + "row, `-c 5`, `--timeout 40`: time from the restart to the last of the other 55 "
                                    + "rows", 25, " s"),
                            Limit.atMost("the same: other rows not succeeded", 0, ""),
                            Limit.atLeast("the same: shortest time from a start of the 5 to unknown", 40, " s"),
                            Limit.atMost("the same: longest time", 50, " s"))));
            return List.copyOf(all);
        }

        RunView view(Bench bench) throws IOException, InterruptedException {
            try {
                return new RunView.Done(method.measure(bench));
            } catch (InvalidRunException problem) {
                return new RunView.Invalid(problem.getMessage());
            }
        }
    }

    /// A measure with its runs so far. Each limit gets a line in the table.
    record Row(Measure measure, List<RunView> runs) {
        List<String> lines() {
            return IntStream.range(0, measure.limits().size()).mapToObj(this::line).toList();
        }

        private String line(int which) {
            var limit = measure.limits().get(which);
            var median = median(which);
            return "| " + String.join(" | ", measure.name(), limit.what(), limit.text(),
                    median.map(sample -> limit.text(sample.value())).orElse("–"), isMet(which) ? "yes" : "**no**",
                    runs.stream().map(view -> switch (view) {
                        case RunView.Done done -> Limit.number(done.samples().get(which).value());
                        case RunView.Invalid _ -> "invalid";
                    }).collect(joining(", ")), detail(which, median)) + " |";
        }

        private String detail(int which, Optional<Sample> median) {
            return runs.stream().filter(RunView.Invalid.class::isInstance).findFirst().map(RunView::toString)
                    .orElseGet(() -> median.map(Sample::detail).orElse("")).replace('|', '/');
        }

        boolean isMet() {
            return IntStream.range(0, measure.limits().size()).allMatch(this::isMet);
        }

        /// An invalid run meets no limit.
        private boolean isMet(int which) {
            return runs.stream().noneMatch(RunView.Invalid.class::isInstance)
                    && median(which).filter(sample -> measure.limits().get(which).isMet(sample.value())).isPresent();
        }

        /// The worse of the two middle samples if their number is even.
        private Optional<Sample> median(int which) {
            var order = Comparator.comparingDouble(Sample::value);
            var sorted = runs.stream().filter(RunView.Done.class::isInstance).map(RunView.Done.class::cast)
                    .map(done -> done.samples().get(which))
                    .sorted(measure.limits().get(which).atLeast() ? order.reversed() : order).toList();
            return sorted.isEmpty() ? Optional.empty() : Optional.of(sorted.get(sorted.size() / 2));
        }
    }

    // ── Methods ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A stream of 1.14.2 stays open for a second after its last event, but the tool closes it at once.
    private static boolean closesEarly(String version, String mode) {
        return version.equals("1.14.2") && mode.equals("streaming");
    }

    private static List<Sample> steady(Bench bench, String version, String mode)
            throws IOException, InterruptedException {
        int rows = bench.scaled(3000), clients = 10;
        var folder = bench.folder("steady");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--dify", version, "--latency", "100ms")) {
            var wrk = bench.wrk(folder, server.address(), closesEarly(version, mode) ? "blocking" : mode);
            wrk.sample(clients, 2); // the server's own warm-up
            var rates = wrk.rates(clients, bench.seconds(4));
            var batch = bench.tool().run(folder, server.address(), "--mode", mode, "-c", String.valueOf(clients));
            rates.addAll(wrk.rates(clients, bench.seconds(4)));
            return List.of(ratio(batch.complete(rows).log().rate(2 * clients), rates));
        }
    }

    /// Uses the median, because other processes slow down single samples.
    private static Sample ratio(double rate, List<Double> rates) {
        var sorted = rates.stream().sorted().toList();
        double median = (sorted.get((sorted.size() - 1) / 2) + sorted.get(sorted.size() / 2)) / 2;
        return new Sample(rate / median, String.format(Locale.ROOT, "%,.0f rows/s; wrk %,.0f (%,.0f to %,.0f)", rate,
                median, sorted.getFirst(), sorted.getLast()));
    }

    private static List<Sample> wide(Bench bench) throws IOException, InterruptedException {
        int rows = bench.scaled(2000), clients = 200;
        var folder = bench.folder("wide");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--latency", "1s")) {
            bench.wrk(folder, server.address(), "blocking").sample(clients, 3); // the server's own warm-up
            var batch = bench.tool().run(folder, server.address(), "-c", String.valueOf(clients)).complete(rows);
            double took = batch.log().seconds();
            return List.of(new Sample(rows / (double) clients / took, String.format(Locale.ROOT,
                    "%.2f s from the first start to the last end", took)));
        }
    }

    private static List<Sample> burst(Bench bench, String mode, int clients) throws IOException, InterruptedException {
        int rows = bench.scaled(60_000);
        var folder = bench.folder("burst");
        Data.write(folder.resolve("data.csv"), rows);
        var server = bench.nginx().site(mode);
        var wrk = bench.wrk(folder, server, mode);
        var rates = wrk.rates(clients, 2);
        var batch = bench.tool().run(folder, server, "--mode", mode, "-c", String.valueOf(clients));
        rates.addAll(wrk.rates(clients, 2));
        return List.of(ratio(batch.complete(rows).log().rate(2 * clients), rates));
    }

    private static List<Sample> admits(Bench bench) throws IOException, InterruptedException {
        int rows = bench.scaled(400), admitted = 4;
        var folder = bench.folder("admits");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--latency", "200ms", "--limit", String.valueOf(admitted))) {
            bench.wrk(folder, server.address(), "blocking").sample(admitted, 3); // the server's own warm-up
            var log = bench.tool().run(folder, server.address(), "--mode", "blocking", "-c", "32").complete(rows).log();
            double ideal = rows * 0.2 / admitted;
            return List.of(new Sample(ideal / log.seconds(), String.format(Locale.ROOT, "%.1f s, ideal %.1f s",
                    log.seconds(), ideal)), new Sample(log.throttled(), rows + " rows"));
        }
    }

    private static List<Sample> door(Bench bench) throws IOException, InterruptedException {
        int rows = bench.scaled(500), places = 10;
        var folder = bench.folder("door");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--latency", "300ms", "--places", String.valueOf(places))) {
            bench.wrk(folder, server.address(), "blocking").sample(places, 3); // the server's own warm-up
            var fits = throughDoor(bench, folder, server, places).complete(rows).log();
            var batch = throughDoor(bench, folder, server, 2 * places);
            var log = batch.log();
            return List.of(new Sample(fits.seconds() / log.seconds(), String.format(Locale.ROOT,
                            "%.1f s, %.1f s with `-c 10`; throttled %d times", log.seconds(), fits.seconds(),
                            log.throttled())),
                    new Sample(rows - log.ends().length, "exit code " + batch.exit()));
        }
    }

    private static Finished throughDoor(Bench bench, Path folder, Simulated server, int clients)
            throws IOException, InterruptedException {
        new Finished(folder, 0, 0, 0).deleteOutput();
        return bench.tool().run(folder, server.address(), "--mode", "blocking", "--timeout", "15", "-c",
                String.valueOf(clients));
    }

    private static List<Sample> million(Bench bench) throws IOException, InterruptedException {
        int rows = bench.scaled(1_000_000), limit = bench.scaled(5000);
        var large = limited(bench, rows, limit);
        var small = limited(bench, bench.scaled(10_000), limit);
        return List.of(new Sample(large.peak(), String.format(Locale.ROOT, "%.1f s in total", large.seconds())),
                new Sample(large.peak() - small.peak(), String.format(Locale.ROOT, "%.0f MB with fewer rows",
                        small.peak())));
    }

    private static Finished limited(Bench bench, int rows, int limit) throws IOException, InterruptedException {
        var folder = bench.folder("limited-" + rows);
        Data.write(folder.resolve("data.csv"), rows);
        return bench.tool().run(folder, bench.nginx().site("blocking"), "-c", "64", "--limit",
                String.valueOf(limit)).complete(limit);
    }

    private static List<Sample> resume(Bench bench) throws IOException, InterruptedException {
        int rows = bench.scaled(1_000_000), left = bench.scaled(1000);
        var done = bench.prepared("resume", folder -> Prepared.done(bench, folder, bench.nginx().site("logged"), rows,
                rows - left));
        done.reset();
        bench.nginx().forgetRequests();
        var began = Instant.now();
        var batch = bench.tool().run(done.folder(), bench.nginx().site("logged"), "-c", "64").complete(rows);
        var first = bench.nginx().firstRun().orElseThrow(() -> new InvalidRunException("the server received no run"));
        return List.of(new Sample(Duration.between(began, first).toMillis() / 1000.0, String.format(Locale.ROOT,
                "%.1f s in total", batch.seconds())), new Sample(batch.peak(), done.size()));
    }

    private static List<Sample> retry(Bench bench) throws IOException, InterruptedException {
        int rows = bench.scaled(8000);
        var server = bench.nginx().site("mended");
        var failed = bench.prepared("retry", folder -> {
            bench.nginx().answer("mended", Answers.FAILED);
            Data.write(folder.resolve("data.csv"), rows);
            bench.tool().run(folder, server, "-c", "64", "--mode", "blocking").exited(Exit.ROWS_FAILED.code);
            bench.nginx().answer("mended", Answers.BLOCKING);
            return Prepared.of(folder);
        });
        var folder = failed.copy(bench.folder("retried"));
        double version = bench.version();
        var batch = bench.tool().retry(folder, server, "-c", "64", "--mode", "blocking").complete(rows);
        return List.of(more(batch, version));
    }

    private static Sample more(Finished batch, double version) {
        return new Sample(batch.seconds() - version, String.format(Locale.ROOT, "%.2f s; --version %.2f s",
                batch.seconds(), version));
    }

    private static List<Sample> status(Bench bench) throws IOException, InterruptedException {
        int rows = bench.scaled(100_000);
        var done = bench.prepared("status", folder -> Prepared.done(bench, folder, bench.nginx().site("blocking"), rows,
                rows));
        double version = bench.version();
        return List.of(more(bench.tool().start(done.folder(), "status", "-o", "results.jsonl").exited(Exit.OK.code),
                version));
    }

    private static List<Sample> check(Bench bench) throws IOException, InterruptedException {
        var folder = bench.folder("check");
        Data.writeTyped(folder.resolve("data.csv"), bench.scaled(100_000));
        double version = bench.version();
        var checked = bench.tool().start(folder, "check", "-i", "data.csv", "--base-url",
                bench.nginx().site("typed").toString()).exited(Exit.OK.code);
        return List.of(more(checked, version), new Sample(checked.peak(), Files.size(folder.resolve("data.csv"))
                / 1_000_000 + " MB of CSV"));
    }

    private static List<Sample> files(Bench bench) throws IOException, InterruptedException {
        int rows = 20;
        var folder = bench.folder("files");
        for (int row = 1; row <= rows; row++)
            try (var file = new RandomAccessFile(folder.resolve("file-" + row + ".pdf").toFile(), "rw")) {
                file.setLength((bench.quick() ? 1L : 20L) << 20);
            }
        Data.writeFiles(folder.resolve("data.csv"), rows, row -> "@file-" + row + ".pdf");
        var with = bench.tool().run(folder, bench.nginx().site("files"), "-c", "8").complete(rows);
        with.deleteOutput();
        Data.writeFiles(folder.resolve("data.csv"), rows, _ -> "");
        var without = bench.tool().run(folder, bench.nginx().site("files"), "-c", "8").complete(rows);
        return List.of(new Sample(with.peak() - without.peak(), String.format(Locale.ROOT,
                "%.0f MB with, %.0f MB without", with.peak(), without.peak())));
    }

    private static List<Sample> rate(Bench bench) throws IOException, InterruptedException {
        int rows = Math.max(20, bench.scaled(200));
        var folder = bench.folder("rate");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--latency", "50ms")) {
            var starts = bench.tool().run(folder, server.address(), "--rate", "10/s", "-c", "10").complete(rows).log()
                    .starts();
            long smallest = IntStream.range(1, rows).mapToLong(row -> starts[row] - starts[row - 1]).min().getAsLong();
            long largest = IntStream.range(1, rows).mapToLong(row -> starts[row] - starts[row - 1]).max().getAsLong();
            double mean = (starts[rows - 1] - starts[0]) / (rows - 1.0);
            return List.of(new Sample(smallest, rows + " starts; largest gap " + largest + " ms"),
                    new Sample(Math.abs(mean - 100), String.format(Locale.ROOT, "mean %.2f ms", mean)));
        }
    }

    /// Counts probes from one second after the server went down, because requests in flight are not probes.
    private static List<Sample> down(Bench bench, Gate.State state) throws IOException, InterruptedException {
        int rows = bench.quick() ? 300 : 1500, downFor = bench.quick() ? 5 : 60;
        var folder = bench.folder("down");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--latency", "200ms"); var gate = Gate.before(server.address())) {
            var running = bench.tool().begin(folder, gate.address(), "-c", "10");
            running.awaitEnds(rows / 3);
            gate.takeDown(state);
            var from = Instant.now().plusSeconds(1);
            Thread.sleep(Duration.ofSeconds(1));
            gate.countProbes();
            Thread.sleep(Duration.ofSeconds(downFor - 1));
            var until = Instant.now();
            gate.bringUp();
            var log = running.end().log();
            long succeeded = log.ends().length, atOnce = state == Gate.State.REFUSING ? log.maxOpen(from, until)
                    : gate.maxConcurrent();
            double back = LongStream.of(log.ends()).filter(end -> end > until.toEpochMilli()).min().orElse(0)
                    - until.toEpochMilli();
            return List.of(new Sample(rows - succeeded, String.format(Locale.ROOT,
                            "exit code %d; first result %.1f s after the server was back", running.end().exit(),
                            back / 1000)),
                    new Sample(atOnce, (state == Gate.State.REFUSING ? log.between(from, until) : gate.probes())
                            + " probes in " + (downFor - 1) + " s"));
        }
    }

    private static List<Sample> restart(Bench bench) throws IOException, InterruptedException {
        int rows = 60, killed = 5;
        var folder = bench.folder("restart");
        Data.write(folder.resolve("data.csv"), rows, row -> row <= killed ? "[never] " : "");
        try (var server = bench.simulator("--latency", "200ms"); var gate = Gate.before(server.address())) {
            var running = bench.tool().begin(folder, gate.address(), "--mode", "blocking", "--timeout", "40", "-c",
                    String.valueOf(killed));
            running.awaitStarts(killed);
            Thread.sleep(Duration.ofSeconds(1));
            gate.takeDown(Gate.State.REFUSING);
            Thread.sleep(Duration.ofSeconds(2));
            gate.bringUp();
            long back = System.currentTimeMillis();
            var log = running.end().log();
            var unknown = log.unknown();
            if (unknown.length != killed) throw new InvalidRunException(unknown.length + " rows are unknown");
            return List.of(new Sample((LongStream.of(log.ends()).max().orElse(back) - back) / 1000.0, "exit code "
                            + running.end().exit()),
                    new Sample(rows - killed - log.ends().length, log.ends().length + " succeeded"),
                    new Sample(LongStream.of(unknown).min().getAsLong() / 1000.0, killed + " unknown"),
                    new Sample(LongStream.of(unknown).max().getAsLong() / 1000.0, killed + " unknown"));
        }
    }

    // ── Data ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Writes CSVs. All ids have the same length, so replacing the id turns one row's log lines into another's.
    static final class Data {
        static String id(int row) {
            return "row-" + (10_000_000 + row);
        }

        static Map<String, String> cells(int row) {
            var cells = new LinkedHashMap<String, String>();
            cells.put("id", id(row));
            cells.put("text", "Please translate this sentence of " + id(row) + ", which is not a long one.");
            return cells;
        }

        static void write(Path file, int rows) throws IOException {
            write(file, rows, _ -> "");
        }

        /// @param fault a prefix of the text that makes the simulator cause a fault, such as `[never] `
        static void write(Path file, int rows, IntFunction<String> fault) throws IOException {
            write(file, "id,text", rows, row -> id(row) + ",\"" + fault.apply(row) + cells(row).get("text") + "\"");
        }

        /// The ten columns of [Answers#TYPED].
        static void writeTyped(Path file, int rows) throws IOException {
            write(file, String.join(",", Answers.TYPED), rows, row -> String.join(",", id(row), "Title of " + row,
                    "\"Some text, with \"\"quotes\"\" and 日本語, of row " + row + "\"", String.valueOf(row % 97),
                    row % 13 + ".50", row % 2 == 0 ? "true" : "false", row % 3 == 0 ? "de" : "ja", "note " + row,
                    "one; two; three", "\"{\"\"row\"\": " + row + "}\""));
        }

        static void writeFiles(Path file, int rows, IntFunction<String> document) throws IOException {
            write(file, "id,text,document", rows, row -> id(row) + ",some text," + document.apply(row));
        }

        private static void write(Path file, String header, int rows, IntFunction<String> line) throws IOException {
            try (var out = Files.newBufferedWriter(file)) {
                out.write(header + "\n");
                for (int row = 1; row <= rows; row++) out.write(line.apply(row) + "\n");
            }
        }
    }

    /// The answers of nginx, generated with the simulator's types so that they have all fields of a Dify 1.14.2.
    static final class Answers {
        static final List<String> TYPED = List.of("id", "title", "text", "count", "price", "urgent", "language", "note",
                "tags", "details");
        private static final SimulatedRun.App APP = SimulatedRun.App.of(SimulatedRun.Version.V1_14_2,
                UUID.nameUUIDFromBytes("workflow".getBytes(UTF_8)).toString());
        static final String BLOCKING = blocking(true), FAILED = blocking(false), STREAMING = streaming();

        private static SimulatedRun run(boolean succeeds) {
            var now = Instant.parse("2026-01-16T12:00:00Z");
            var run = SimulatedRun.begin(APP, "pace", new LinkedHashMap<>(Data.cells(1)), now);
            return run.end(succeeds ? new SimulatedRun.State.Succeeded(SimulatedJson.object("answer",
                    "The answer of a model to a sentence that is not a long one.", "row_id", Data.id(0)))
                    : new SimulatedRun.State.Failed("Run failed: the model refused this input"), 42,
                    now.plusMillis(1234));
        }

        private static String blocking(boolean succeeds) {
            return SimulatedJson.SPACED.json(run(succeeds).blocking());
        }

        private static String streaming() {
            var run = run(true);
            return "event: ping\n\n" + Stream.concat(run.opening().stream(), run.closing().stream())
                    .map(event -> "data: " + SimulatedJson.COMPACT.json(event) + "\n\n").collect(joining());
        }

        static String app() {
            return json("name", "pace", "description", "", "tags", List.of(), "mode", "workflow",
                    "author_name", "pace");
        }

        static String noRuns() {
            return json("page", 1, "limit", 20, "total", 0, "has_more", false, "data", List.of());
        }

        static String upload() {
            return json("id", UUID.nameUUIDFromBytes("upload".getBytes(UTF_8)).toString(), "name", "file.pdf");
        }

        /// All columns are texts, except for the names in [#variable].
        static String form(List<String> columns) {
            return json("user_input_form", columns.stream().map(Answers::variable).toList(), "system_parameters",
                    SimulatedJson.object("image_file_size_limit", 10, "file_size_limit", 50,
                            "workflow_file_upload_limit", 10));
        }

        private static Map<String, Object> variable(String name) {
            var type = switch (name) {
                case "count", "price" -> "number";
                case "urgent" -> "checkbox";
                case "language" -> "select";
                case "details" -> "json_object";
                case "document" -> "file";
                case "title", "tags" -> "text-input";
                default -> "paragraph";
            };
            return SimulatedJson.object(type, SimulatedJson.object("variable", name, "label", name, "type", type,
                    "required", false, "max_length", type.equals("text-input") ? 100 : null,
                    "options", type.equals("select") ? List.of("de", "en", "fr", "ja") : List.of(),
                    "allowed_file_types", List.of("document"), "allowed_file_upload_methods", List.of("local_file")));
        }

        private static String json(Object... fields) {
            return SimulatedJson.ESCAPED.json(SimulatedJson.object(fields));
        }
    }

    /// A batch that is created once and used by every run.
    ///
    /// @param sizes the original sizes of its files
    record Prepared(Path folder, Map<Path, Long> sizes) {
        private static final int REAL = 100; // rows that the tool runs; the others are copies

        @FunctionalInterface
        interface Making {
            Prepared in(Path folder) throws IOException, InterruptedException;
        }

        static Prepared of(Path folder) throws IOException {
            var sizes = new TreeMap<Path, Long>();
            try (var files = Files.list(folder)) {
                for (var file : files.toList()) sizes.put(file, Files.size(file));
            }
            return new Prepared(folder, sizes);
        }

        /// The tool runs the first rows. The lines of row 1 are then copied for the other rows.
        static Prepared done(Bench bench, Path folder, URI server, int rows, int done) throws IOException,
                InterruptedException {
            Data.write(folder.resolve("data.csv"), rows);
            bench.tool().run(folder, server, "--mode", "blocking", "--limit", String.valueOf(REAL)).complete(REAL);
            repeat(folder.resolve("results.jsonl"), done);
            repeat(folder.resolve("results.jsonl.log"), done);
            return of(folder);
        }

        private static void repeat(Path file, int done) throws IOException {
            var first = Data.id(1);
            var hash = HexFormat.of().toHexDigits(Cells.of(Data.cells(1)));
            var lines = Files.readAllLines(file).stream().map(line -> line.replace("\uFEFF", ""))
                    .filter(line -> line.contains('"' + first + '"')).map(line -> line + "\n").toList();
            if (lines.stream().anyMatch(line -> line.contains("\"cells\"") && !line.contains(hash)))
                throw new InvalidRunException("unexpected cell hash in the log");
            try (var out = Files.newBufferedWriter(file, StandardOpenOption.APPEND)) {
                for (int row = REAL + 1; row <= done; row++) {
                    var cells = lines.getFirst().contains("\"cells\"") 
                            ? HexFormat.of().toHexDigits(Cells.of(Data.cells(row))) : hash;
                    for (var line : lines)
                        out.write(named(line.replace(first, Data.id(row)).replace(hash, cells), row));
                }
            }
        }

        /// Makes the attempt's name unique: `difyexec-<random>-<row>`.
        private static String named(String line, int row) {
            int user = line.indexOf("\"user\":\"");
            if (user < 0) return line;
            int end = line.indexOf('"', user + 8);
            return line.substring(0, line.lastIndexOf('-', end) + 1) + row + line.substring(end);
        }

        /// Removes what a run has added.
        void reset() throws IOException {
            try (var files = Files.list(folder)) {
                for (var file : files.toList()) {
                    if (!sizes.containsKey(file)) Files.delete(file);
                    else if (Files.size(file) > sizes.get(file)) try (var channel = FileChannel.open(file,
                            StandardOpenOption.WRITE)) {
                        channel.truncate(sizes.get(file));
                    }
                }
            }
        }

        Path copy(Path to) throws IOException {
            for (var file : sizes.keySet()) Files.copy(file, to.resolve(file.getFileName()));
            return to;
        }

        String size() {
            return sizes.values().stream().mapToLong(Long::longValue).sum() / 1_000_000 + " MB of files";
        }
    }

    /// The attempt log of a batch. Times are in ms since 1970 and sorted.
    ///
    /// @param starts times at which requests were sent
    /// @param ends   times at which rows succeeded
    record Timeline(long[] starts, long[] ends, int throttled, List<JsonNode> events) {
        private static final ObjectMapper JSON = new ObjectMapper();

        static Timeline read(Path log) throws IOException {
            var starts = LongStream.builder();
            var ends = LongStream.builder();
            int throttled = 0;
            var kept = new ArrayList<JsonNode>();
            try (var lines = Files.newBufferedReader(log)) {
                for (var line = lines.readLine(); line != null; line = lines.readLine()) {
                    var event = JSON.readTree(line);
                    switch (event.path("event").asText()) {
                        case "attempt" -> starts.add(at(event));
                        case "end" -> {
                            if (event.path("outcome").asText().equals("succeeded")) ends.add(at(event));
                        }
                        case "throttle" -> throttled++;
                        default -> {}
                    }
                    if (kept.size() < 20_000) kept.add(event);
                }
            }
            return new Timeline(starts.build().sorted().toArray(), ends.build().sorted().toArray(), throttled, kept);
        }

        private static long at(JsonNode event) {
            return Instant.parse(event.path("t").asText()).toEpochMilli();
        }

        /// Rows per second, without the first `skipped` rows.
        double rate(int skipped) {
            int from = Math.min(skipped, ends.length / 2);
            return (ends.length - from) * 1000.0 / (ends[ends.length - 1] - ends[from - 1]);
        }

        double seconds() {
            return (ends[ends.length - 1] - starts[0]) / 1000.0;
        }

        /// The time in ms from the last start of each unknown row to its end.
        long[] unknown() {
            var started = new HashMap<String, Long>();
            var took = LongStream.builder();
            for (var event : events) {
                if (event.path("event").asText().equals("attempt")) started.put(event.path("id").asText(), at(event));
                if (event.path("outcome").asText().equals("unknown"))
                    took.add(at(event) - started.get(event.path("id").asText()));
            }
            return took.build().toArray();
        }

        private Stream<JsonNode> during(Instant from, Instant until) {
            return events.stream()
                    .filter(event -> at(event) >= from.toEpochMilli() && at(event) <= until.toEpochMilli());
        }

        /// Counts attempts and look-ups.
        long between(Instant from, Instant until) {
            return during(from, until).map(event -> event.path("event").asText())
                    .filter(List.of("attempt", "look")::contains).count();
        }

        /// The highest number of concurrent requests. The log has only the end of a look-up, so a look-up counts as
        /// open during the millisecond in which it ended.
        long maxOpen(Instant from, Instant until) {
            int open = 0, most = 0;
            long lastLook = 0, looks = 0;
            for (var event : during(from, until).toList()) {
                switch (event.path("event").asText()) {
                    case "attempt" -> open++;
                    case "end" -> open = Math.max(0, open - 1);
                    case "look" -> {
                        looks = at(event) == lastLook ? looks + 1 : 1;
                        lastLook = at(event);
                        most = (int) Math.max(most, open + looks);
                    }
                    default -> {}
                }
                most = Math.max(most, open);
            }
            return most;
        }
    }

    // ── Processes ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// The folder, the servers and the tool. Removes all files and processes at the end, even after Ctrl-C.
    static final class Bench implements AutoCloseable {
        private final Path root;
        private final boolean keep, quick;
        private final Programs programs;
        private final Children children = new Children();
        private final Thread atExit = new Thread(this::clear);
        private final Map<String, Prepared> prepared = new HashMap<>();
        private final Tool tool;
        private Nginx nginx;
        private int folders = 0;

        private Bench(Path root, boolean keep, Programs programs, boolean quick, List<String> javaOptions)
                throws IOException {
            this.root = root;
            this.keep = keep;
            this.programs = programs;
            this.quick = quick;
            this.tool = new Tool(children, Stream.concat(Tool.headerOptions().stream(), javaOptions.stream()).toList(),
                    new AtomicInteger());
        }

        static Bench open(Optional<Path> folder, Programs programs, boolean quick, List<String> javaOptions)
                throws IOException {
            var root = folder.isPresent() ? Files.createDirectories(folder.get()).toAbsolutePath()
                    : Files.createTempDirectory("pace-");
            var bench = new Bench(root, folder.isPresent(), programs, quick, javaOptions);
            Runtime.getRuntime().addShutdownHook(bench.atExit);
            return bench;
        }

        boolean quick() {
            return quick;
        }

        int scaled(int rows) {
            return quick ? rows / 20 : rows;
        }

        int seconds(int whole) {
            return quick ? Math.max(1, whole / 10) : whole;
        }

        Tool tool() {
            return tool;
        }

        Path folder(String name) throws IOException {
            return Files.createDirectories(root.resolve(++folders + "-" + name));
        }

        Prepared prepared(String name, Prepared.Making making) throws IOException, InterruptedException {
            if (!prepared.containsKey(name)) prepared.put(name, making.in(folder(name)));
            return prepared.get(name);
        }

        Nginx nginx() throws IOException, InterruptedException {
            if (nginx == null) nginx = Nginx.start(folder("nginx"), programs, children);
            return nginx;
        }

        Simulated simulator(String... options) throws IOException {
            return Simulated.start(children, List.of(options));
        }

        Wrk wrk(Path folder, URI server, String mode) {
            return new Wrk(programs.wrk(), children, folder, server, mode);
        }

        /// The median time of three calls of `--version`, in seconds.
        double version() throws IOException, InterruptedException {
            var folder = folder("version");
            var all = new double[3];
            for (int i = 0; i < all.length; i++) all[i] = tool.start(folder, "--version").exited(0).seconds();
            Arrays.sort(all);
            return all[1];
        }

        private void clear() {
            children.close();
            if (keep) return;
            for (int tries = 0; tries < 10 && Files.exists(root); tries++) delete();
        }

        private void delete() {
            try (var files = Files.walk(root)) {
                for (var file : files.sorted(Comparator.reverseOrder()).toList()) Files.deleteIfExists(file);
            } catch (IOException | UncheckedIOException _) {
                // the main thread was still writing; try again
            }
        }

        @Override
        public void close() {
            Runtime.getRuntime().removeShutdownHook(atExit);
            clear();
        }
    }

    /// Tracks the processes that we start, and ends them all on close. Thread-safe.
    static final class Children implements AutoCloseable {
        private final Set<Process> alive = new HashSet<>();
        private boolean closed = false;

        synchronized Process start(ProcessBuilder builder) throws IOException {
            if (closed) throw new IllegalStateException("shutting down");
            var process = builder.start();
            alive.add(process);
            alive.removeIf(each -> !each.isAlive());
            return process;
        }

        @Override
        public synchronized void close() {
            closed = true;
            alive.forEach(Children::end);
        }

        /// Kills the descendants too, because nginx's workers outlive it.
        static void end(Process process) {
            var all = Stream.concat(Stream.of(process.toHandle()), process.descendants()).toList();
            all.forEach(ProcessHandle::destroyForcibly);
            all.forEach(handle -> handle.onExit().join());
        }
    }

    record Programs(Path nginx, Path wrk) {
        static Programs find() throws IOException, InterruptedException {
            if (path("nginx").isEmpty() || path("wrk").isEmpty()) install();
            return new Programs(path("nginx").orElseThrow(() -> missing("nginx", "nginx-light")),
                    path("wrk").orElseThrow(() -> missing("wrk", "wrk")));
        }

        private static IllegalStateException missing(String program, String debian) {
            return new IllegalStateException(program + " not found\nhint: install it (Debian: apt-get install "
                    + debian + ")");
        }

        /// Also searches the `sbin` folders, which are often not in an ordinary user's PATH.
        private static Optional<Path> path(String program) {
            return Stream.of((System.getenv("PATH") + File.pathSeparator + "/usr/sbin" + File.pathSeparator
                            + "/usr/local/sbin").split(File.pathSeparator))
                    .map(folder -> Path.of(folder, program)).filter(Files::isExecutable).findFirst();
        }

        /// RUNLEVEL=1 keeps the package from starting its own server.
        private static void install() throws IOException, InterruptedException {
            if (path("apt-get").isEmpty() || !System.getProperty("user.name").equals("root")) return;
            System.err.println("Installing nginx-light and wrk …");
            for (var words : List.of("apt-get update -qq", "apt-get install -y -qq nginx-light wrk")) {
                var builder = new ProcessBuilder(words.split(" ")).redirectOutput(ProcessBuilder.Redirect.DISCARD)
                        .redirectError(ProcessBuilder.Redirect.INHERIT);
                builder.environment().putAll(Map.of("DEBIAN_FRONTEND", "noninteractive", "RUNLEVEL", "1"));
                builder.start().waitFor();
            }
        }

        String versions() throws IOException {
            return first(nginx, "-v").replace("nginx version: nginx/", "nginx ") + ", "
                    + first(wrk, "-v").replaceFirst("^(wrk \\S+).*", "$1");
        }

        private static String first(Path program, String option) throws IOException {
            var process = new ProcessBuilder(program.toString(), option).redirectErrorStream(true).start();
            return new String(process.getInputStream().readAllBytes(), UTF_8).lines().findFirst().orElse("");
        }
    }

    /// nginx with static answers and one site for each purpose.
    record Nginx(Path folder, Map<String, Integer> ports) {
        private static final Map<String, List<String>> FORMS = Map.of("blocking", List.of("id", "text"),
                "streaming", List.of("id", "text"), "logged", List.of("id", "text"), "mended", List.of("id", "text"),
                "typed", Answers.TYPED, "files", List.of("id", "text", "document"));

        static Nginx start(Path folder, Programs programs, Children children) throws IOException, InterruptedException {
            var nginx = new Nginx(folder, freePorts(FORMS.keySet()));
            for (var site : FORMS.keySet()) nginx.fill(site);
            Files.writeString(folder.resolve("nginx.conf"), nginx.configuration());
            children.start(new ProcessBuilder(programs.nginx().toString(), "-p", folder.toString(), "-c", "nginx.conf",
                    "-e", "error.log").redirectErrorStream(true)
                    .redirectOutput(folder.resolve("out").toFile()));
            for (int tries = 0; !nginx.listens(); tries++) {
                if (tries == 100) throw new IllegalStateException("nginx did not start: "
                        + Files.readString(folder.resolve("out")).strip());
                Thread.sleep(50);
            }
            return nginx;
        }

        private static Map<String, Integer> freePorts(Collection<String> sites) throws IOException {
            var ports = new TreeMap<String, Integer>();
            var sockets = new ArrayList<ServerSocket>();
            for (var site : sites) {
                sockets.add(new ServerSocket(0, 1, InetAddress.getLoopbackAddress()));
                ports.put(site, sockets.getLast().getLocalPort());
            }
            for (var socket : sockets) socket.close();
            return Map.copyOf(ports);
        }

        private boolean listens() {
            try (var _ = new Socket(InetAddress.getLoopbackAddress(), ports.get("blocking"))) {
                return true;
            } catch (IOException _) { // not yet
                return false;
            }
        }

        private void fill(String site) throws IOException {
            var root = Files.createDirectories(folder.resolve(site));
            Files.writeString(root.resolve("info.json"), Answers.app());
            Files.writeString(root.resolve("parameters.json"), Answers.form(FORMS.get(site)));
            Files.writeString(root.resolve("logs.json"), Answers.noRuns());
            Files.writeString(root.resolve("upload.json"), Answers.upload());
            Files.writeString(root.resolve("run.json"), Answers.BLOCKING);
            Files.writeString(root.resolve("run.stream"), Answers.STREAMING);
        }

        /// One worker is faster than any client here. It is pinned to the first core for stable results.
        private String configuration() {
            return (System.getProperty("user.name").equals("root") ? "user root;\n" : "") + """
                    daemon off;
                    worker_processes 1;
                    worker_cpu_affinity 1;
                    pid nginx.pid;
                    events { worker_connections 4096; }
                    http {
                        access_log off;
                        log_format moments '$msec $request_uri';
                        types { application/json json; text/event-stream stream; }
                        keepalive_requests 1000000000;
                        tcp_nopush on;
                        client_max_body_size 100m;
                        client_body_temp_path body;
                        proxy_temp_path proxy;
                        fastcgi_temp_path fastcgi;
                        uwsgi_temp_path uwsgi;
                        scgi_temp_path scgi;
                    """ + ports.entrySet().stream().map(site -> server(site.getKey(), site.getValue()))
                    .collect(joining()) + "}\n";
        }

        /// nginx refuses a POST to a static file with 405, so `error_page` replaces the 405 with the answer. Uploads go
        /// through `proxy_pass`, because nginx then reads the whole body before it answers, as Dify does.
        private String server(String site, int port) {
            return """
                        server {
                            listen 127.0.0.1:%PORT backlog=2048;
                            root %SITE;
                            add_header X-Version 1.14.2 always;
                            %LOG
                            location = /v1/info { try_files /info.json =404; }
                            location = /v1/parameters { try_files /parameters.json =404; }
                            location = /v1/workflows/logs { try_files /logs.json =404; }
                            location = /v1/workflows/run { error_page 405 =200 /%RUN; return 405; }
                            location = /v1/files/upload { proxy_pass http://127.0.0.1:%PORT/taken; }
                            location = /taken { error_page 405 =201 /upload.json; return 405; }
                        }
                    """.replace("%PORT", String.valueOf(port)).replace("%SITE", site)
                    .replace("%LOG", site.equals("logged") ? "access_log requests.log moments;" : "")
                    .replace("%RUN", site.equals("streaming") ? "run.stream" : "run.json");
        }

        URI site(String name) {
            return URI.create("http://127.0.0.1:" + ports.get(name) + "/v1");
        }

        void answer(String site, String run) throws IOException {
            Files.writeString(folder.resolve(site).resolve("run.json"), run);
        }

        void forgetRequests() throws IOException {
            Files.writeString(folder.resolve("requests.log"), "");
        }

        /// The time at which the first run after [#forgetRequests] was answered.
        Optional<Instant> firstRun() throws IOException {
            try (var lines = Files.lines(folder.resolve("requests.log"))) {
                return lines.filter(line -> line.endsWith("/v1/workflows/run")).findFirst().map(line ->
                        Instant.ofEpochMilli(new BigDecimal(line.split(" ")[0]).movePointRight(3).longValue()));
            }
        }
    }

    record Simulated(Process process, URI address) implements AutoCloseable {
        static Simulated start(Children children, List<String> options) throws IOException {
            var process = children.start(new ProcessBuilder(Tool.java(List.of("-XX:+UseSerialGC", "-Xmx1g"),
                    "difyexec.Simulator", options)).redirectError(ProcessBuilder.Redirect.INHERIT));
            var first = new BufferedReader(new InputStreamReader(process.getInputStream(), UTF_8)).readLine();
            if (first == null) throw new InvalidRunException("the simulator did not start");
            return new Simulated(process, URI.create(first));
        }

        @Override
        public void close() {
            Children.end(process);
        }
    }

    /// The reference: requests per second of a client that ignores the answers.
    record Wrk(Path program, Children children, Path folder, URI server, String mode) {
        private static final Pattern RATE = Pattern.compile("Requests/sec:\\s+([0-9.]+)");

        List<Double> rates(int clients, int seconds) throws IOException, InterruptedException {
            var rates = new ArrayList<Double>();
            for (int i = 0; i < 3; i++) rates.add(sample(clients, seconds));
            return rates;
        }

        double sample(int clients, int seconds) throws IOException, InterruptedException {
            var script = folder.resolve("wrk.lua");
            Files.writeString(script, script());
            int cores = Runtime.getRuntime().availableProcessors();
            var command = new ArrayList<>(clients == 1 ? onCore(cores - 1) : List.of());
            command.addAll(List.of(program.toString(), "-c" + clients, "-t" + Math.min(clients, cores),
                    "-d" + seconds + "s", "--timeout", "30s", "-s", script.toString(), server + "/workflows/run"));
            var process = children.start(new ProcessBuilder(command).redirectErrorStream(true));
            var output = new String(process.getInputStream().readAllBytes(), UTF_8);
            process.waitFor();
            var rate = RATE.matcher(output);
            if (!rate.find() || output.contains("Non-2xx"))
                throw new InvalidRunException("wrk: " + output.strip());
            return Double.parseDouble(rate.group(1));
        }

        /// A single client is several times faster on the server's core, so it gets another one.
        private static List<String> onCore(int core) {
            return Programs.path("taskset").map(taskset -> List.of(taskset.toString(), "-c", String.valueOf(core)))
                    .orElse(List.of());
        }

        private String script() {
            return """
                    wrk.method = "POST"
                    wrk.headers["Content-Type"] = "application/json"
                    wrk.headers["Authorization"] = "Bearer app-pace"
                    wrk.body = '{"inputs":{"id":"%s","text":"%s"},"response_mode":"%s",' ..
                            '"user":"difyexec-0123456789abcdef-1"}'
                    """.formatted(Data.id(0), Data.cells(0).get("text"), mode);
        }
    }

    /// A finished call of the tool.
    ///
    /// @param peak resident memory, in MB
    record Finished(Path folder, int exit, double seconds, double peak) {
        Finished exited(int code) throws IOException {
            if (exit == code) return this;
            var output = Files.readString(folder.resolve("tool.out")).strip();
            throw new InvalidRunException("exit code " + exit + ": "
                    + output.substring(Math.max(0, output.length() - 400)));
        }

        /// Checks that all rows succeeded and have a result.
        Finished complete(int rows) throws IOException {
            exited(Exit.OK.code);
            try (var lines = Files.lines(folder.resolve("results.jsonl"))) {
                long count = lines.count();
                if (count != rows) throw new InvalidRunException(count + " results of " + rows + " rows");
            }
            return this;
        }

        Timeline log() throws IOException {
            return Timeline.read(folder.resolve("results.jsonl.log"));
        }

        void deleteOutput() throws IOException {
            for (var end : List.of("", ".log", ".lock", ".retry"))
                Files.deleteIfExists(folder.resolve("results.jsonl" + end));
        }
    }

    /// Runs the tool in a child process, with the JVM options of its header as for a user.
    record Tool(Children children, List<String> options, AtomicInteger starts) {
        /// `./jbang` sets DIFYEXEC_HOME. Without it, looks in the current folder.
        static List<String> headerOptions() throws IOException {
            var script = Path.of(Objects.requireNonNullElse(System.getenv("DIFYEXEC_HOME"), "."), "DifyExec.java");
            if (!Files.exists(script)) throw new IllegalStateException(script
                    + " not found\nhint: start benchmarks/pace, or run in the folder of DifyExec.java");
            try (var lines = Files.lines(script)) {
                return lines.takeWhile(line -> !line.isBlank()).filter(line -> line.startsWith("//RUNTIME_OPTIONS "))
                        .flatMap(line -> Stream.of(line.split(" +")).skip(1)).toList();
            }
        }

        static List<String> java(List<String> options, String main, List<String> arguments) {
            var command = new ArrayList<String>();
            command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
            command.addAll(options);
            command.addAll(List.of("-cp", classPath(), main));
            command.addAll(arguments);
            return command;
        }

        /// Absolute paths, because the child runs in another folder.
        private static String classPath() {
            return Stream.of(System.getProperty("java.class.path").split(File.pathSeparator))
                    .filter(part -> !part.isEmpty()).map(part -> Path.of(part).toAbsolutePath().toString())
                    .collect(joining(File.pathSeparator));
        }

        Finished run(Path folder, URI server, String... options) throws IOException, InterruptedException {
            return begin(folder, server, options).end();
        }

        Finished retry(Path folder, URI server, String... options) throws IOException, InterruptedException {
            return begin(folder, arguments("retry", server, options)).end();
        }

        Finished start(Path folder, String... arguments) throws IOException, InterruptedException {
            return begin(folder, List.of(arguments)).end();
        }

        Running begin(Path folder, URI server, String... options) throws IOException {
            return begin(folder, arguments("run", server, options));
        }

        private static List<String> arguments(String command, URI server, String... options) {
            return Stream.concat(Stream.of(command, "-i", "data.csv", "-o", "results.jsonl", "--base-url",
                    server.toString()), Stream.of(options)).toList();
        }

        /// Removes the caller's settings from the environment, because they would change the figures.
        private Running begin(Path folder, List<String> arguments) throws IOException {
            var number = String.valueOf(starts.incrementAndGet());
            var builder = new ProcessBuilder(java(options.stream().map(option -> option.replace("%n", number)).toList(),
                    "difyexec.DifyExec", arguments)).directory(folder.toFile()).redirectErrorStream(true)
                    .redirectOutput(folder.resolve("tool.out").toFile());
            builder.environment().keySet().removeIf(name -> name.startsWith("DIFY") || name.toUpperCase(Locale.ROOT)
                    .endsWith("_PROXY") || Set.of("MAX_RETRIES", "INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY", "TIMEOUT",
                    "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS").contains(name));
            builder.environment().put("DIFY_API_KEY", "app-pace");
            return Running.of(folder, children.start(builder), System.nanoTime());
        }
    }

    /// A running call of the tool.
    record Running(Path folder, Process process, long began, Future<Long> peak) {
        private static final Duration LONGEST = Duration.ofMinutes(15);

        static Running of(Path folder, Process process, long began) {
            var peak = new FutureTask<>(() -> watch(process));
            Thread.ofVirtual().start(peak);
            return new Running(folder, process, began, peak);
        }

        /// Returns the peak memory in kB. The kernel reports it only while the process exists, so growth in the last 10
        /// ms is missed.
        private static long watch(Process process) throws InterruptedException {
            long peak = 0;
            do {
                try (var lines = Files.lines(Path.of("/proc/" + process.pid() + "/status"))) {
                    peak = Math.max(peak, lines.filter(line -> line.startsWith("VmHWM:")).findFirst()
                            .map(line -> Long.parseLong(line.replaceAll("\\D", ""))).orElse(0L));
                } catch (IOException | UncheckedIOException _) {
                    // the process has just ended
                }
            } while (!process.waitFor(10, TimeUnit.MILLISECONDS));
            return peak;
        }

        /// Waits until `rows` rows have succeeded.
        void awaitEnds(int rows) throws IOException, InterruptedException {
            awaitLines(rows, "results.jsonl", "");
        }

        void awaitStarts(int rows) throws IOException, InterruptedException {
            awaitLines(rows, "results.jsonl.log", "\"event\":\"attempt\"");
        }

        private void awaitLines(int count, String file, String with) throws IOException, InterruptedException {
            var written = folder.resolve(file);
            while (process.isAlive()) {
                if (Files.exists(written)) try (var lines = Files.lines(written)) {
                    if (lines.filter(line -> line.contains(with)).count() >= count) return;
                }
                Thread.sleep(100);
            }
            throw new InvalidRunException("the tool ended too early");
        }

        Finished end() throws IOException, InterruptedException {
            if (!process.waitFor(LONGEST.toMillis(), TimeUnit.MILLISECONDS)) {
                Children.end(process);
                throw new InvalidRunException("still running after " + LONGEST.toMinutes() + " minutes");
            }
            double seconds = (System.nanoTime() - began) / 1e9;
            try {
                return new Finished(folder, process.exitValue(), seconds, peak.get() / 1024.0);
            } catch (ExecutionException problem) {
                throw new IllegalStateException(problem);
            }
        }
    }

    /// A proxy that simulates a server going down: it drops open connections, then refuses new ones or answers 502.
    static final class Gate implements AutoCloseable {
        enum State { OPEN, REFUSING, BAD_GATEWAY }

        private static final byte[] ANSWER = ("HTTP/1.1 502 Bad Gateway\r\nServer: nginx\r\n"
                + "Content-Type: text/html\r\nConnection: close\r\n"
                + "Content-Length: 35\r\n\r\n<html><h1>502 Bad Gateway</h1></html>").getBytes(UTF_8);

        private final int port, server;
        private final String path;
        private final Set<Socket> open = ConcurrentHashMap.newKeySet();
        private final AtomicInteger probes = new AtomicInteger(), now = new AtomicInteger(), max = new AtomicInteger();
        private volatile State state = State.OPEN;
        private volatile ServerSocket listener;

        private Gate(URI server, ServerSocket listener) {
            this.server = server.getPort();
            this.path = server.getPath();
            this.listener = listener;
            this.port = listener.getLocalPort();
        }

        static Gate before(URI server) throws IOException {
            var gate = new Gate(server, new ServerSocket(0, 1024, InetAddress.getLoopbackAddress()));
            gate.accept(gate.listener);
            return gate;
        }

        URI address() {
            return URI.create("http://127.0.0.1:" + port + path);
        }

        void takeDown(State how) throws IOException {
            state = how;
            if (how == State.REFUSING) listener.close();
            for (var socket : open) socket.close();
        }

        void bringUp() throws IOException {
            if (state == State.REFUSING) {
                listener = new ServerSocket(port, 1024, InetAddress.getLoopbackAddress());
                accept(listener);
            }
            state = State.OPEN;
        }

        void countProbes() {
            probes.set(0);
            max.set(0);
        }

        int probes() {
            return probes.get();
        }

        int maxConcurrent() {
            return max.get();
        }

        private void accept(ServerSocket at) {
            Thread.ofPlatform().daemon().name("gate").start(() -> {
                try {
                    while (true) {
                        var client = at.accept();
                        open.add(client);
                        Thread.startVirtualThread(() -> serve(client));
                    }
                } catch (IOException _) {
                    // the gate is closed
                }
            });
        }

        private void serve(Socket client) {
            try (client) {
                client.setTcpNoDelay(true);
                if (state == State.BAD_GATEWAY) refuse(client);
                else forward(client);
            } catch (IOException | InterruptedException _) {
                // a side has closed, or the server was taken down
            } finally {
                open.remove(client);
            }
        }

        private void forward(Socket client) throws IOException, InterruptedException {
            try (var upstream = new Socket(InetAddress.getLoopbackAddress(), server)) {
                upstream.setTcpNoDelay(true);
                open.add(upstream);
                var back = Thread.startVirtualThread(() -> pump(upstream, client));
                pump(client, upstream);
                back.join();
                open.remove(upstream);
            }
        }

        private static void pump(Socket from, Socket to) {
            try {
                from.getInputStream().transferTo(to.getOutputStream());
                to.shutdownOutput();
            } catch (IOException _) {
                // the connection was cut, which also ends the other direction
            }
        }

        /// Waits before answering, as a proxy does, so that concurrent probes overlap.
        private void refuse(Socket client) throws IOException, InterruptedException {
            if (client.getInputStream().read() < 0) return;
            probes.incrementAndGet();
            max.accumulateAndGet(now.incrementAndGet(), Math::max);
            try {
                Thread.sleep(200);
                client.getInputStream().skipNBytes(client.getInputStream().available());
                client.getOutputStream().write(ANSWER);
                client.shutdownOutput();
            } finally {
                now.decrementAndGet();
            }
        }

        @Override
        public void close() throws IOException {
            listener.close();
            for (var socket : open) socket.close();
        }
    }

    /// The machine and the versions, in one line.
    record Machine(String text) {
        static Machine here(Programs programs, Tool tool) throws IOException {
            int cores = Runtime.getRuntime().availableProcessors();
            return new Machine(String.join(" · ", LocalDate.now(ZoneOffset.UTC).toString(),
                    cores + " × " + field("/proc/cpuinfo", "model name\\s*:\\s*(.*)"),
                    Math.round(Long.parseLong(field("/proc/meminfo", "MemTotal:\\s*(\\d+).*")) / 1048576.0) + " GB",
                    field("/etc/os-release", "PRETTY_NAME=\"?([^\"]*)\"?"), "JDK "
                            + System.getProperty("java.runtime.version"), programs.versions(),
                    "difyexec " + VERSION + " with `" + String.join(" ", tool.options()) + "`",
                    "load " + field("/proc/loadavg", "(\\S+).*") + " at the start"));
        }

        private static String field(String file, String shape) throws IOException {
            try (var lines = Files.lines(Path.of(file))) {
                return lines.map(Pattern.compile(shape)::matcher).filter(Matcher::matches).findFirst()
                        .map(match -> match.group(1).strip()).orElse("?");
            }
        }

        @Override
        public String toString() {
            return text;
        }
    }
}
