///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Kills and restarts the shards of a batch, joins their results, and counts rows lost or paid twice.
//SOURCES Chaos.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs each shard in a process that is killed and restarted as in [Chaos], all against one simulator, then joins
/// their results as `cat` does. The time and the joined file are compared with those of a single process that runs all
/// rows with the same total concurrency and is never killed.
@Command(name = "shards", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Kill and restart the shards of a batch, join their results, and count rows lost, torn, wrong "
                + "and paid twice. Exit code 1 if there are any, or if the joined results differ from those of one "
                + "process.",
        footer = {"", "Example: benchmarks/shards --rows 2000 --shards 4 --kills 3 -- --places 20"})
final class Shards implements Callable<Integer> {
    private static final List<String> COUNTS = List.of("total", "succeeded", "partial", "failed", "paused", "unknown",
            "pending", "lost_results", "unread_lines", "ids_not_in_input");

    @Option(names = "--rows", paramLabel = "N", defaultValue = "10000",
            description = "Write a CSV with N rows (default: ${DEFAULT-VALUE}).")
    int rows;

    @Option(names = "--shards", paramLabel = "N", defaultValue = "8",
            description = "Split the batch into N shards (default: ${DEFAULT-VALUE}).")
    int shards;

    @Option(names = "--kills", paramLabel = "N", defaultValue = "10",
            description = "Kill each shard N times (default: ${DEFAULT-VALUE}).")
    int kills;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1",
            description = "Seed for kills, rows and faults (default: ${DEFAULT-VALUE}).")
    long seed;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.14.2",
            description = "Simulate Dify " + SimulatedRun.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    String version;

    @Option(names = "--mode", paramLabel = "MODE", defaultValue = "blocking",
            description = "Run the tool with --mode streaming, blocking or auto (default: ${DEFAULT-VALUE}).")
    String mode;

    @Option(names = {"-c", "--concurrency"}, paramLabel = "N", defaultValue = "5",
            description = "Run N rows of each shard at a time (default: ${DEFAULT-VALUE}).")
    int concurrency;

    @Option(names = "--folder", paramLabel = "DIR",
            description = "Keep all files in DIR (default: a temporary folder, kept only if something is wrong).")
    Path folder;

    @Parameters(paramLabel = "OPTION",
            description = "Pass these options to the simulator, after the defaults of benchmarks/chaos.")
    List<String> server = List.of();

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(new CommandLine(new Shards()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var keep = folder != null;
        if (!keep) folder = Files.createTempDirectory("shards-");
        var one = Files.createDirectories(folder.resolve("one"));
        var table = Chaos.Table.write(folder.resolve("data.csv"), rows, seed, "workflow");
        Files.copy(folder.resolve("data.csv"), one.resolve("data.csv"), StandardCopyOption.REPLACE_EXISTING);
        var joined = Files.createDirectories(folder.resolve("joined"));
        Files.copy(folder.resolve("data.csv"), joined.resolve("data.csv"), StandardCopyOption.REPLACE_EXISTING);
        var sharded = runShards(table, joined);
        var single = runSingle(one);
        var differences = differences(joined, one);
        print(sharded, single, differences);
        boolean isGood = sharded.verdict().isGood() && differences.isEmpty();
        if (isGood && !keep) Chaos.Tool.delete(folder);
        else spec.commandLine().getOut().println("files: " + folder);
        spec.commandLine().getOut().flush();
        return isGood ? 0 : 1;
    }

    record Sharded(Chaos.Verdict verdict, int starts, int kills, double seconds) {}

    private Sharded runShards(Chaos.Table table, Path joined) throws Exception {
        try (var simulator = Chaos.Simulated.start(options()); var threads = Executors.newCachedThreadPool()) {
            tool(folder, simulator, List.of()).archiveClasses();
            var began = System.nanoTime();
            var running = new ArrayList<Future<Chaos.Starts>>();
            for (int index = 1; index <= shards; index++) {
                var shard = new DifyExec.Shard(index, shards);
                var tool = tool(folder, simulator, List.of("--shard", "" + shard));
                var results = shard.fileFor(folder.resolve("results.jsonl"));
                running.add(threads.submit(() -> Chaos.runWithKills(tool::start, results, rows / shards, kills,
                        seed * 1000 + shard.index())));
            }
            int starts = 0, killed = 0, exit = DifyExec.Exit.OK.code;
            for (var each : running) {
                starts += each.get().starts();
                killed += each.get().kills();
                exit = Math.max(exit, each.get().lastExit());
            }
            double seconds = since(began);
            for (var suffix : List.of("", ".retry")) join(suffix, joined.resolve("results.jsonl" + suffix));
            var verdict = Chaos.Verdict.of(joined, table, simulator.stats(), exit);
            return new Sharded(verdict, starts, killed, seconds);
        }
    }

    /// A shard without rows has no files.
    private void join(String suffix, Path into) throws IOException {
        try (var out = Files.newOutputStream(into)) {
            for (int index = 1; index <= shards; index++) {
                var file = new DifyExec.Shard(index, shards).fileFor(folder.resolve("results.jsonl"));
                var part = file.resolveSibling(file.getFileName() + suffix);
                if (Files.exists(part)) Files.copy(part, out);
            }
        }
    }

    /// Returns the seconds that one process takes with the concurrency of all shards together.
    private double runSingle(Path one) throws Exception {
        try (var simulator = Chaos.Simulated.start(options())) {
            var began = System.nanoTime();
            var slots = List.of("-c", String.valueOf(concurrency * shards));
            Chaos.runWithKills(tool(one, simulator, slots)::start, one.resolve("results.jsonl"), rows, 0, seed);
            return since(began);
        }
    }

    private static double since(long began) {
        return (System.nanoTime() - began) / 1e9;
    }

    private Chaos.Tool tool(Path folder, Chaos.Simulated simulator, List<String> more) {
        var arguments = new ArrayList<>(List.of("run", "-i", "data.csv", "-o", "results.jsonl", "--mode", mode,
                "--settle", "5", "--progress", "off"));
        arguments.addAll(more);
        if (!more.contains("-c")) arguments.addAll(List.of("-c", String.valueOf(concurrency)));
        return new Chaos.Tool(folder, arguments, simulator.address(), "20", "3");
    }

    private List<String> options() {
        return Stream.of(List.of("--dify", version, "--seed", String.valueOf(seed), "--columns", "id,text"),
                Chaos.SERVER, server).flatMap(List::stream).toList();
    }

    /// Compares `status --json` and the exports without run ids, times and costs, and runs `compare`.
    private static List<String> differences(Path joined, Path one) throws IOException {
        var differences = new ArrayList<String>();
        JsonNode left = Chaos.Tool.status(joined), right = Chaos.Tool.status(one);
        for (var key : COUNTS)
            if (!left.path(key).equals(right.path(key)))
                differences.add("status " + key + ": " + left.path(key) + ", not " + right.path(key));
        if (!cells(joined).equals(cells(one))) differences.add("export");
        var compared = Chaos.JSON.readTree(Chaos.Tool.output(joined, "compare", "--json",
                one.resolve("results.jsonl").toAbsolutePath().toString(), "results.jsonl"));
        if (!compared.path("same").equals(right.path("succeeded"))) differences.add("compare " + compared.path("same"));
        return differences;
    }

    /// Returns the exported rows up to their status.
    private static List<String> cells(Path folder) throws IOException {
        var text = new String(Chaos.Tool.output(folder, "export", "-i", "data.csv", "-o", "results.jsonl", "-"), UTF_8);
        return Pattern.compile("\r\n").splitAsStream(text).map(row -> row.replaceFirst("succeeded,.*", "succeeded"))
                .toList();
    }

    private void print(Sharded sharded, double single, List<String> differences) {
        var verdict = sharded.verdict();
        var out = spec.commandLine().getOut();
        out.println("| dify | mode | rows | shards | kills | starts | lost | torn | wrong | paid twice | without result "
                + "| s | one process s | differs | seed | server |");
        out.println("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|---|");
        out.println("| " + Stream.of(version, mode, rows, shards, sharded.kills(), sharded.starts(), 
                verdict.lost().size(), verdict.torn(), verdict.wrong().size(), verdict.paidTwice().size(),
                verdict.missing().size(), seconds(sharded.seconds()), seconds(single),
                differences.isEmpty() ? "nothing" : String.join("; ", differences), seed, String.join(" ", server))
                .map(String::valueOf).collect(Collectors.joining(" | ")) + " |");
        out.flush();
    }

    private static String seconds(double seconds) {
        return String.format(Locale.ROOT, "%.1f", seconds);
    }
}
