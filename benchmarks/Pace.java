///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Measures the tool's speed, memory and manners against their bars, and prints a Markdown table.
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

/// Runs the tool as a user does, a process a batch, and holds what it took against a bar. Rates are ratios: `wrk`
/// drives the same server just before and just after, so that a busy machine slows both.
///
/// Servers: nginx with static answers (no latency), and [Simulator] in a process of its own (latency, limits).
@Command(name = "pace", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = {"Measures speed, memory and manners of the tool against their bars; prints a Markdown table.",
                "Needs nginx and wrk, which it installs where apt-get is there and may be used. Exit code 1 if a bar "
                        + "is missed.", ""},
        footer = {"", "Example: benchmarks/pace --runs 1 --only admits,rate"})
final class Pace implements Callable<Integer> {
    @Option(names = "--runs", paramLabel = "N", defaultValue = "3",
            description = "The table shows medians of so many (default: ${DEFAULT-VALUE}).")
    int runs;

    @Option(names = "--only", paramLabel = "NAME", split = ",", arity = "1..*",
            description = "Only these rows of the table, by name or its beginning (--list names them).")
    List<String> only = List.of();

    @Option(names = "--list", description = "Name the rows and their bars; measure nothing.")
    boolean list;

    @Option(names = "--quick", description = "A twentieth of the rows: shows that all works; its figures mean nothing.")
    boolean quick;

    @Option(names = "--java-option", paramLabel = "OPTION",
            description = "A further JVM option for the tool, after those of its header: to profile it, or to try a "
                    + "heap. '%%n' in it becomes the number of the start.")
    List<String> javaOptions = List.of();

    @Option(names = "--folder", paramLabel = "DIR",
            description = "Keeps all files there (default: a temporary folder, deleted at the end).")
    Path folder;

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(new CommandLine(new Pace()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var measures = Measure.all().stream().filter(this::isAskedFor).toList();
        if (list) measures.forEach(measure -> measure.bars().forEach(bar -> print(measure.name() + ": " + bar.what()
                + ": " + bar.text())));
        if (list || measures.isEmpty()) return list ? 0 : unknown();
        var programs = Programs.find();
        try (var bench = Bench.open(Optional.ofNullable(folder), programs, quick, javaOptions)) {
            var machine = Machine.here(programs, bench.tool());
            var rows = measures.stream().map(measure -> new Row(measure, new ArrayList<>())).toList();
            for (int run = 1; run <= runs; run++) for (var row : rows) {
                var view = row.measure().view(bench);
                row.trials().add(view);
                spec.commandLine().getErr().println(row.measure().name() + " " + run + "/" + runs + ": " + view);
                spec.commandLine().getErr().flush();
            }
            print(machine + "; " + (runs == 1 ? "one run" : "medians of " + runs + " runs")
                    + (quick ? " with a twentieth of the rows" : "") + ".\n");
            print("| name | measure | bar | figure | met | all runs | the run of the figure |");
            print("|---|---|--:|--:|---|--:|---|");
            rows.forEach(row -> row.lines().forEach(this::print));
            return rows.stream().allMatch(Row::isMet) ? 0 : 1;
        }
    }

    private boolean isAskedFor(Measure measure) {
        return only.isEmpty() || only.stream().anyMatch(name -> measure.name().startsWith(name.strip()));
    }

    private int unknown() {
        spec.commandLine().getErr().println("pace: no row is named " + String.join(" or ", only)
                + "; --list names them");
        return 2;
    }

    private void print(String line) {
        spec.commandLine().getOut().println(line);
        spec.commandLine().getOut().flush();
    }

    // ── What is measured ────────────────────────────────────────────────────────────────────────────────────────────

    /// What a figure must not fall under (`atLeast`) or exceed.
    record Bar(String what, boolean atLeast, double limit, String unit) {
        static Bar atLeast(String what, double limit, String unit) {
            return new Bar(what, true, limit, unit);
        }

        static Bar atMost(String what, double limit, String unit) {
            return new Bar(what, false, limit, unit);
        }

        boolean isMet(double value) {
            return atLeast ? value >= limit : value <= limit;
        }

        String text() {
            return (atLeast ? "≥ " : "≤ ") + number(limit) + unit;
        }

        String text(double value) {
            return number(value) + unit;
        }

        /// Three digits that count; whole numbers as they are.
        private static String number(double value) {
            if (value == Math.rint(value)) return String.format(Locale.ROOT, "%.0f", value);
            double size = Math.abs(value);
            return String.format(Locale.ROOT, size < 1 ? "%.3f" : size < 10 ? "%.2f" : "%.1f", value);
        }
    }

    /// One figure of one run, and what else that run showed.
    record Sample(double value, String detail) {}

    /// One run of a measure: a sample for each of its bars, or why there is none.
    sealed interface RunView {
        record Done(List<Sample> samples) implements RunView {
            @Override
            public String toString() {
                return samples.stream().map(sample -> Bar.number(sample.value()) + " (" + sample.detail() + ")")
                        .collect(joining("; "));
            }
        }

        record Spoilt(String why) implements RunView {
            @Override
            public String toString() {
                return "spoilt: " + why;
            }
        }
    }

    /// A run whose figures would be worth nothing: rows are missing, or a program did not do its part.
    static final class SpoiltException extends RuntimeException {
        SpoiltException(String why) {
            super(why);
        }
    }

    @FunctionalInterface
    interface Method {
        List<Sample> measure(Bench bench) throws IOException, InterruptedException;
    }

    /// @param bars one for each sample of `method`
    record Measure(String name, List<Bar> bars, Method method) {
        static List<Measure> all() {
            var all = new ArrayList<Measure>();
            for (var version : List.of("1.14.2", "1.9.2")) for (var mode : List.of("blocking", "streaming"))
                all.add(new Measure("steady-" + version + "-" + mode, List.of(Bar.atLeast("3,000 rows × 100 ms, "
                        + "`-c 10`, " + mode + ", " + version + ": rows/s against `wrk -c10`"
                        + (leavesEarly(version, mode) ? " (blocking: `wrk` would wait for the stream's own end)" : ""),
                        0.96, "")), bench -> steady(bench, version, mode)));
            all.addAll(List.of(
                    new Measure("wide", List.of(Bar.atLeast("2,000 rows × 1 s, `-c 200`: against the ideal 10 s", 0.93,
                            "")), Pace::wide),
                    new Measure("burst-blocking", List.of(Bar.atLeast("60,000 rows, no latency, `-c 64`, blocking: "
                            + "rows/s against `wrk -c64`", 0.09, "")), bench -> burst(bench, "blocking", 64)),
                    new Measure("burst-streaming", List.of(Bar.atLeast("the same, streaming", 0.07, "")),
                            bench -> burst(bench, "streaming", 64)),
                    new Measure("single", List.of(Bar.atLeast("60,000 rows, no latency, `-c 1`, blocking: rows/s "
                            + "against `wrk -c1`", 0.22, "")), bench -> burst(bench, "blocking", 1)),
                    new Measure("admits", List.of(Bar.atLeast("the server admits 4, `-c 32`, 400 rows × 200 ms: "
                            + "against the ideal 20 s", 0.9, ""), Bar.atMost("the same: refused requests", 50, "")),
                            Pace::admits),
                    new Measure("door", List.of(Bar.atLeast("a server of ten connections, 500 rows × 300 ms, blocking, "
                            + "`--timeout 15`: rows/s with `-c 20` against `-c 10`", 0.9, ""),
                            Bar.atMost("the same: rows not succeeded", 0, "")), Pace::door),
                    new Measure("million", List.of(Bar.atMost("1,000,000-row CSV, `--limit 5000`, `-c 64`: peak RSS",
                            200, " MB"), Bar.atMost("the same: more than with 10,000 rows", 64, " MB")), Pace::million),
                    new Measure("resume", List.of(Bar.atMost("resume over 1,000,000 rows with 999,000 done: to the "
                            + "first run's request", 12, " s"), Bar.atMost("the same: peak RSS", 200, " MB")),
                            Pace::resume),
                    new Measure("retry", List.of(Bar.atMost("retry of 8,000 ids, no latency, `-c 64`: more than "
                            + "`--version`", 3, " s")), Pace::retry),
                    new Measure("status", List.of(Bar.atMost("`status` over 100,000 results: more than `--version`", 1,
                            " s")), Pace::status),
                    new Measure("check", List.of(Bar.atMost("`check` of 100,000 rows × 10 columns: more than "
                            + "`--version`", 1.2, " s"), Bar.atMost("the same: peak RSS", 150, " MB")), Pace::check),
                    new Measure("files", List.of(Bar.atMost("20 rows with a 20 MB file each, `-c 8`: peak RSS over "
                            + "that without files", 60, " MB")), Pace::files),
                    new Measure("rate", List.of(Bar.atLeast("`--rate 10/s`: smallest gap between starts", 80, " ms"),
                            Bar.atMost("the same: mean gap off by", 2, " %")), Pace::rate),
                    new Measure("down-refused", List.of(Bar.atMost("server down for 60 s in the middle of a batch "
                            + "(connections refused): rows not succeeded", 0, ""),
                            Bar.atMost("the same: probes at once", 1, "")), bench -> down(bench, Gate.State.REFUSING)),
                    new Measure("down-502", List.of(Bar.atMost("the same behind a proxy that answers 502: rows not "
                            + "succeeded", 0, ""), Bar.atMost("the same: probes at once", 1, "")),
                            bench -> down(bench, Gate.State.BAD_GATEWAY)),
                    new Measure("restart", List.of(Bar.atMost("server killed with 5 of 60 rows in its hands, which "
                            + "then say running for ever; 0.2 s a row, `-c 5`, `--timeout 40`: from its restart to the "
                            + "last of the other 55", 25, " s"),
                            Bar.atMost("the same: rows of the 55 not succeeded", 0, ""),
                            Bar.atLeast("the same: from the start of one of the 5 to unknown, least", 40, " s"),
                            Bar.atMost("the same, most", 50, " s")), Pace::restart)));
            return List.copyOf(all);
        }

        RunView view(Bench bench) throws IOException, InterruptedException {
            try {
                return new RunView.Done(method.measure(bench));
            } catch (SpoiltException problem) {
                return new RunView.Spoilt(problem.getMessage());
            }
        }
    }

    /// A measure with its runs so far: one or more lines of the table.
    record Row(Measure measure, List<RunView> trials) {
        List<String> lines() {
            return IntStream.range(0, measure.bars().size()).mapToObj(this::line).toList();
        }

        private String line(int which) {
            var bar = measure.bars().get(which);
            var median = median(which);
            return "| " + String.join(" | ", measure.name(), bar.what(), bar.text(),
                    median.map(sample -> bar.text(sample.value())).orElse("–"), isMet(which) ? "yes" : "**no**",
                    trials.stream().map(view -> switch (view) {
                        case RunView.Done done -> Bar.number(done.samples().get(which).value());
                        case RunView.Spoilt _ -> "spoilt";
                    }).collect(joining(", ")), detail(which, median)) + " |";
        }

        private String detail(int which, Optional<Sample> median) {
            return trials.stream().filter(RunView.Spoilt.class::isInstance).findFirst().map(RunView::toString)
                    .orElseGet(() -> median.map(Sample::detail).orElse("")).replace('|', '/');
        }

        boolean isMet() {
            return IntStream.range(0, measure.bars().size()).allMatch(this::isMet);
        }

        /// A spoilt run meets nothing.
        private boolean isMet(int which) {
            return trials.stream().noneMatch(RunView.Spoilt.class::isInstance)
                    && median(which).filter(sample -> measure.bars().get(which).isMet(sample.value())).isPresent();
        }

        /// Of an even number, the worse of the two in the middle.
        private Optional<Sample> median(int which) {
            var order = Comparator.comparingDouble(Sample::value);
            var sorted = trials.stream().filter(RunView.Done.class::isInstance).map(RunView.Done.class::cast)
                    .map(done -> done.samples().get(which))
                    .sorted(measure.bars().get(which).atLeast() ? order.reversed() : order).toList();
            return sorted.isEmpty() ? Optional.empty() : Optional.of(sorted.get(sorted.size() / 2));
        }
    }

    // ── How it is measured ──────────────────────────────────────────────────────────────────────────────────────────

    /// A stream of 1.14.2 stays open for a second after its last event; the tool has left by then.
    private static boolean leavesEarly(String version, String mode) {
        return version.equals("1.14.2") && mode.equals("streaming");
    }

    private static List<Sample> steady(Bench bench, String version, String mode)
            throws IOException, InterruptedException {
        int rows = bench.scaled(3000), clients = 10;
        var folder = bench.folder("steady");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--dify", version, "--latency", "100ms")) {
            var wrk = bench.wrk(folder, server.address(), leavesEarly(version, mode) ? "blocking" : mode);
            wrk.sample(clients, 2); // the server's own warm-up
            var rates = wrk.rates(clients, bench.seconds(4));
            var batch = bench.tool().run(folder, server.address(), "--mode", mode, "-c", String.valueOf(clients));
            rates.addAll(wrk.rates(clients, bench.seconds(4)));
            return List.of(ratio(batch.complete(rows).log().rate(2 * clients), rates));
        }
    }

    /// Against the median: a neighbour who is busy slows single samples down.
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
                            "%.1f s, %.1f s with `-c 10`; slowed down %d times", log.seconds(), fits.seconds(),
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
        return List.of(new Sample(large.peak(), String.format(Locale.ROOT, "%.1f s in all", large.seconds())),
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
        var first = bench.nginx().firstRun().orElseThrow(() -> new SpoiltException("the server saw no run"));
        return List.of(new Sample(Duration.between(began, first).toMillis() / 1000.0, String.format(Locale.ROOT,
                "%.1f s to the end of the call", batch.seconds())), new Sample(batch.peak(), done.size()));
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

    /// Counted from a second after the fall on: what was on its way by then is no probe.
    private static List<Sample> down(Bench bench, Gate.State state) throws IOException, InterruptedException {
        int rows = bench.quick() ? 300 : 1500, downFor = bench.quick() ? 5 : 60;
        var folder = bench.folder("down");
        Data.write(folder.resolve("data.csv"), rows);
        try (var server = bench.simulator("--latency", "200ms"); var gate = Gate.before(server.address())) {
            var running = bench.tool().begin(folder, gate.address(), "-c", "10");
            running.untilEnds(rows / 3);
            gate.fall(state);
            var from = Instant.now().plusSeconds(1);
            Thread.sleep(Duration.ofSeconds(1));
            gate.countProbes();
            Thread.sleep(Duration.ofSeconds(downFor - 1));
            var until = Instant.now();
            gate.rise();
            var log = running.end().log();
            long succeeded = log.ends().length, atOnce = state == Gate.State.REFUSING ? log.mostOpen(from, until)
                    : gate.mostAtOnce();
            double back = LongStream.of(log.ends()).filter(end -> end > until.toEpochMilli()).min().orElse(0)
                    - until.toEpochMilli();
            return List.of(new Sample(rows - succeeded, String.format(Locale.ROOT,
                            "exit code %d; the first result %.1f s after the server was back", running.end().exit(),
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
            running.untilStarts(killed);
            Thread.sleep(Duration.ofSeconds(1));
            gate.fall(Gate.State.REFUSING);
            Thread.sleep(Duration.ofSeconds(2));
            gate.rise();
            long back = System.currentTimeMillis();
            var log = running.end().log();
            var unknown = log.unknown();
            if (unknown.length != killed) throw new SpoiltException(unknown.length + " rows are unknown");
            return List.of(new Sample((LongStream.of(log.ends()).max().orElse(back) - back) / 1000.0, "exit code "
                            + running.end().exit()),
                    new Sample(rows - killed - log.ends().length, log.ends().length + " succeeded"),
                    new Sample(LongStream.of(unknown).min().getAsLong() / 1000.0, killed + " unknown"),
                    new Sample(LongStream.of(unknown).max().getAsLong() / 1000.0, killed + " unknown"));
        }
    }

    // ── Data ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// CSVs. An id has always as many digits, so that a line of one row becomes another's by putting its id in.
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

        /// What stands before a text asks the simulator for trouble.
        static void write(Path file, int rows, IntFunction<String> before) throws IOException {
            write(file, "id,text", rows, row -> id(row) + ",\"" + before.apply(row) + cells(row).get("text") + "\"");
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

    /// What nginx answers: made by the simulator's types, so that it is what a Dify 1.14.2 says, field for field.
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

        /// `columns` by name, all of them texts but those whose name tells another type.
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

    /// A batch that is made once and used by every run.
    ///
    /// @param sizes of its files as they were made
    record Prepared(Path folder, Map<Path, Long> sizes) {
        private static final int SEEN = 100; // rows that the tool itself runs

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

        /// The tool runs the first rows; the lines it wrote for the first are repeated under the ids of the others.
        static Prepared done(Bench bench, Path folder, URI server, int rows, int done) throws IOException,
                InterruptedException {
            Data.write(folder.resolve("data.csv"), rows);
            bench.tool().run(folder, server, "--mode", "blocking", "--limit", String.valueOf(SEEN)).complete(SEEN);
            repeat(folder.resolve("results.jsonl"), done);
            repeat(folder.resolve("results.jsonl.log"), done);
            return of(folder);
        }

        private static void repeat(Path file, int done) throws IOException {
            var first = Data.id(1);
            var hash = Cells.hash(Data.cells(1));
            var lines = Files.readAllLines(file).stream().map(line -> line.replace("\uFEFF", ""))
                    .filter(line -> line.contains('"' + first + '"')).map(line -> line + "\n").toList();
            if (lines.stream().anyMatch(line -> line.contains("\"cells\"") && !line.contains(hash)))
                throw new SpoiltException("the log has another hash of a row than it is made by here");
            try (var out = Files.newBufferedWriter(file, StandardOpenOption.APPEND)) {
                for (int row = SEEN + 1; row <= done; row++) {
                    var cells = lines.getFirst().contains("\"cells\"") ? Cells.hash(Data.cells(row)) : hash;
                    for (var line : lines)
                        out.write(named(line.replace(first, Data.id(row)).replace(hash, cells), row));
                }
            }
        }

        /// The attempt's own name: `difyexec-<random>-<row>`.
        private static String named(String line, int row) {
            int user = line.indexOf("\"user\":\"");
            if (user < 0) return line;
            int end = line.indexOf('"', user + 8);
            return line.substring(0, line.lastIndexOf('-', end) + 1) + row + line.substring(end);
        }

        /// What a run has added is cut off again.
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

    /// The attempt log of a batch, in ms since 1970.
    ///
    /// @param starts of requests
    /// @param ends   of rows that succeeded, in order
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
                        default -> {} // no start, no end
                    }
                    if (kept.size() < 20_000) kept.add(event);
                }
            }
            return new Timeline(starts.build().sorted().toArray(), ends.build().sorted().toArray(), throttled, kept);
        }

        private static long at(JsonNode event) {
            return Instant.parse(event.path("t").asText()).toEpochMilli();
        }

        /// Rows a second, the first `skipped` not counted.
        double rate(int skipped) {
            int from = Math.min(skipped, ends.length / 2);
            return (ends.length - from) * 1000.0 / (ends[ends.length - 1] - ends[from - 1]);
        }

        double seconds() {
            return (ends[ends.length - 1] - starts[0]) / 1000.0;
        }

        /// How long each row took that came to nothing, from its last start, in ms.
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

        /// How many requests a stretch of time saw: attempts and look-ups.
        long between(Instant from, Instant until) {
            return during(from, until).map(event -> event.path("event").asText())
                    .filter(List.of("attempt", "look")::contains).count();
        }

        /// The most requests that were open at once: of look-ups the log has the end alone, so each counts as open
        /// for the ms it ended in.
        long mostOpen(Instant from, Instant until) {
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
                    default -> {} // no request
                }
                most = Math.max(most, open);
            }
            return most;
        }
    }

    // ── Processes ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Folder, servers and the tool of one call. Whatever ends it, also Ctrl-C, it leaves no process and no file.
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

        /// A new folder, for one run.
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

        /// Seconds of `--version`, the median of three.
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
                // the main thread, about to be ended, still made a file: once more
            }
        }

        @Override
        public void close() {
            Runtime.getRuntime().removeShutdownHook(atExit);
            clear();
        }
    }

    /// The processes that we started. Once closed, none can be started any more. Any thread may use it.
    static final class Children implements AutoCloseable {
        private final Set<Process> alive = new HashSet<>();
        private boolean closed = false;

        synchronized Process start(ProcessBuilder builder) throws IOException {
            if (closed) throw new IllegalStateException("on the way out");
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

        /// With its own children: nginx leaves its workers behind when it is killed.
        static void end(Process process) {
            var all = Stream.concat(Stream.of(process.toHandle()), process.descendants()).toList();
            all.forEach(ProcessHandle::destroyForcibly);
            all.forEach(handle -> handle.onExit().join());
        }
    }

    /// Where nginx and wrk are.
    record Programs(Path nginx, Path wrk) {
        static Programs find() throws IOException, InterruptedException {
            if (path("nginx").isEmpty() || path("wrk").isEmpty()) install();
            return new Programs(path("nginx").orElseThrow(() -> missing("nginx", "nginx-light")),
                    path("wrk").orElseThrow(() -> missing("wrk", "wrk")));
        }

        private static IllegalStateException missing(String program, String debian) {
            return new IllegalStateException(program + " is missing: install it (on Debian: apt-get install "
                    + debian + ")");
        }

        /// Daemons hide where ordinary users do not look.
        private static Optional<Path> path(String program) {
            return Stream.of((System.getenv("PATH") + File.pathSeparator + "/usr/sbin" + File.pathSeparator
                            + "/usr/local/sbin").split(File.pathSeparator))
                    .map(folder -> Path.of(folder, program)).filter(Files::isExecutable).findFirst();
        }

        /// `RUNLEVEL`: the package would start a server of its own.
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

    /// nginx with one site for each purpose, all with static answers.
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
                if (tries == 100) throw new IllegalStateException("nginx does not start: "
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

        /// One worker, on the first core: it is faster than any client here, and its place does not change by chance.
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

        /// A static file answers a POST by 405, which is then said in another way. An upload is taken whole before it
        /// is answered, as by Dify: nginx does that when it hands it on.
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

        /// When the first run since then was answered.
        Optional<Instant> firstRun() throws IOException {
            try (var lines = Files.lines(folder.resolve("requests.log"))) {
                return lines.filter(line -> line.endsWith("/v1/workflows/run")).findFirst().map(line ->
                        Instant.ofEpochMilli(new BigDecimal(line.split(" ")[0]).movePointRight(3).longValue()));
            }
        }
    }

    /// The simulator in its own process.
    record Simulated(Process process, URI address) implements AutoCloseable {
        static Simulated start(Children children, List<String> options) throws IOException {
            var process = children.start(new ProcessBuilder(Tool.java(List.of("-XX:+UseSerialGC", "-Xmx1g"),
                    "difyexec.Simulator", options)).redirectError(ProcessBuilder.Redirect.INHERIT));
            var first = new BufferedReader(new InputStreamReader(process.getInputStream(), UTF_8)).readLine();
            if (first == null) throw new SpoiltException("the simulator did not start");
            return new Simulated(process, URI.create(first));
        }

        @Override
        public void close() {
            Children.end(process);
        }
    }

    /// The reference: how many answers a second the server gives to a client that does nothing with them.
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
            var said = new String(process.getInputStream().readAllBytes(), UTF_8);
            process.waitFor();
            var rate = RATE.matcher(said);
            if (!rate.find() || said.contains("Non-2xx")) throw new SpoiltException("wrk: " + said.strip());
            return Double.parseDouble(rate.group(1));
        }

        /// A single client is several times faster when it happens to share the server's core: so it never does.
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

    /// A call of the tool that is over. `peak`: the most memory it held, in MB (resident).
    record Finished(Path folder, int exit, double seconds, double peak) {
        Finished exited(int code) throws IOException {
            if (exit == code) return this;
            var said = Files.readString(folder.resolve("tool.out")).strip();
            throw new SpoiltException("exit code " + exit + ": " + said.substring(Math.max(0, said.length() - 400)));
        }

        /// All rows have succeeded, and each has its line.
        Finished complete(int rows) throws IOException {
            exited(Exit.OK.code);
            try (var lines = Files.lines(folder.resolve("results.jsonl"))) {
                long count = lines.count();
                if (count != rows) throw new SpoiltException(count + " results of " + rows + " rows");
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

    /// The tool as a child process, with the JVM options of its header: what is measured is what users get.
    record Tool(Children children, List<String> options, AtomicInteger starts) {
        /// The launcher tells where the script is; without it, this folder is meant.
        static List<String> headerOptions() throws IOException {
            var script = Path.of(Objects.requireNonNullElse(System.getenv("DIFYEXEC_HOME"), "."), "DifyExec.java");
            if (!Files.exists(script)) throw new IllegalStateException("there is no " + script
                    + ": start benchmarks/pace, or work in the folder of DifyExec.java");
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

        /// Absolute: the child works in another folder.
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

        /// Settings of whoever runs this benchmark must not change what is measured.
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

    /// A call of the tool that goes on. Its memory is looked at until it ends.
    record Running(Path folder, Process process, long began, Future<Long> peak) {
        private static final Duration LONGEST = Duration.ofMinutes(15);

        static Running of(Path folder, Process process, long began) {
            var peak = new FutureTask<>(() -> watch(process));
            Thread.ofVirtual().start(peak);
            return new Running(folder, process, began, peak);
        }

        /// kB. The kernel keeps the peak, but only while the process is there: what its last 10 ms add is missed.
        private static long watch(Process process) throws InterruptedException {
            long peak = 0;
            do {
                try (var lines = Files.lines(Path.of("/proc/" + process.pid() + "/status"))) {
                    peak = Math.max(peak, lines.filter(line -> line.startsWith("VmHWM:")).findFirst()
                            .map(line -> Long.parseLong(line.replaceAll("\\D", ""))).orElse(0L));
                } catch (IOException | UncheckedIOException _) {
                    // it has just ended
                }
            } while (!process.waitFor(10, TimeUnit.MILLISECONDS));
            return peak;
        }

        /// Waits for so many rows that succeeded.
        void untilEnds(int rows) throws IOException, InterruptedException {
            untilLines(rows, "results.jsonl", "");
        }

        void untilStarts(int rows) throws IOException, InterruptedException {
            untilLines(rows, "results.jsonl.log", "\"event\":\"attempt\"");
        }

        private void untilLines(int count, String file, String with) throws IOException, InterruptedException {
            var written = folder.resolve(file);
            while (process.isAlive()) {
                if (Files.exists(written)) try (var lines = Files.lines(written)) {
                    if (lines.filter(line -> line.contains(with)).count() >= count) return;
                }
                Thread.sleep(100);
            }
            throw new SpoiltException("the tool ended too early");
        }

        Finished end() throws IOException, InterruptedException {
            if (!process.waitFor(LONGEST.toMillis(), TimeUnit.MILLISECONDS)) {
                Children.end(process);
                throw new SpoiltException("not over after " + LONGEST.toMinutes() + " minutes");
            }
            double seconds = (System.nanoTime() - began) / 1e9;
            try {
                return new Finished(folder, process.exitValue(), seconds, peak.get() / 1024.0);
            } catch (ExecutionException problem) {
                throw new IllegalStateException(problem);
            }
        }
    }

    /// Stands before a server and can take it away: connections are refused, or answered as by a proxy whose server is
    /// down. What went through when it fell is cut.
    static final class Gate implements AutoCloseable {
        enum State { OPEN, REFUSING, BAD_GATEWAY }

        private static final byte[] ANSWER = ("HTTP/1.1 502 Bad Gateway\r\nServer: nginx\r\n"
                + "Content-Type: text/html\r\nConnection: close\r\n"
                + "Content-Length: 35\r\n\r\n<html><h1>502 Bad Gateway</h1></html>").getBytes(UTF_8);

        private final int port, server;
        private final String path;
        private final Set<Socket> open = ConcurrentHashMap.newKeySet();
        private final AtomicInteger probes = new AtomicInteger(), now = new AtomicInteger(), most = new AtomicInteger();
        private volatile State state = State.OPEN;
        private volatile ServerSocket entrance;

        private Gate(URI server, ServerSocket entrance) {
            this.server = server.getPort();
            this.path = server.getPath();
            this.entrance = entrance;
            this.port = entrance.getLocalPort();
        }

        static Gate before(URI server) throws IOException {
            var gate = new Gate(server, new ServerSocket(0, 1024, InetAddress.getLoopbackAddress()));
            gate.accept(gate.entrance);
            return gate;
        }

        URI address() {
            return URI.create("http://127.0.0.1:" + port + path);
        }

        void fall(State how) throws IOException {
            state = how;
            if (how == State.REFUSING) entrance.close();
            for (var socket : open) socket.close();
        }

        void rise() throws IOException {
            if (state == State.REFUSING) {
                entrance = new ServerSocket(port, 1024, InetAddress.getLoopbackAddress());
                accept(entrance);
            }
            state = State.OPEN;
        }

        void countProbes() {
            probes.set(0);
            most.set(0);
        }

        int probes() {
            return probes.get();
        }

        int mostAtOnce() {
            return most.get();
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
                else hand(client);
            } catch (IOException | InterruptedException _) {
                // one of the two has left, or the gate fell
            } finally {
                open.remove(client);
            }
        }

        private void hand(Socket client) throws IOException, InterruptedException {
            try (var behind = new Socket(InetAddress.getLoopbackAddress(), server)) {
                behind.setTcpNoDelay(true);
                open.add(behind);
                var back = Thread.startVirtualThread(() -> pump(behind, client));
                pump(client, behind);
                back.join();
                open.remove(behind);
            }
        }

        private static void pump(Socket from, Socket to) {
            try {
                from.getInputStream().transferTo(to.getOutputStream());
                to.shutdownOutput();
            } catch (IOException _) {
                // cut: the other way ends with it
            }
        }

        /// A proxy needs a moment to find its server gone; probes that come at once meet in it.
        private void refuse(Socket client) throws IOException, InterruptedException {
            if (client.getInputStream().read() < 0) return;
            probes.incrementAndGet();
            most.accumulateAndGet(now.incrementAndGet(), Math::max);
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
            entrance.close();
            for (var socket : open) socket.close();
        }
    }

    /// What all was measured on, as one line.
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
