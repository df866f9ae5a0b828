///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Runs one CSV in many processes that are killed and started again, merges them, and counts what was lost or paid twice.
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

/// As many processes as there are shards, each killed (SIGKILL) and started again as [Chaos] does it, against one
/// simulator; then `merge`. The same rows in one process, which has all their slots and is never killed, are what time
/// and files are held against.
@Command(name = "shards", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Runs one CSV in many processes that are killed and started again, and merges them; counts what is "
                + "lost or paid twice. Exit code 1 if anything is, or if the merged batch is not that of one process.",
        footer = {"", "Example: benchmarks/shards --rows 2000 --shards 4 --kills 3 -- --places 20"})
final class Shards implements Callable<Integer> {
    private static final List<String> STANDINGS = List.of("total", "succeeded", "partial", "failed", "paused",
            "unknown",
            "pending", "lost_results", "unread_lines", "ids_not_in_input");
    private static final Pattern ROWS = Pattern.compile("(?s)class=\"rows\">(.*?)</script>");

    @Option(names = "--rows", paramLabel = "N", defaultValue = "10000", description = "Default: ${DEFAULT-VALUE}.")
    int rows;

    @Option(names = "--shards", paramLabel = "N", defaultValue = "8", description = "Default: ${DEFAULT-VALUE}.")
    int shards;

    @Option(names = "--kills", paramLabel = "N", defaultValue = "10",
            description = "Of each process (default: ${DEFAULT-VALUE}).")
    int kills;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1", description = "Of kills, rows and trouble.")
    long seed;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.14.2",
            description = SimulatedRun.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    String version;

    @Option(names = "--mode", paramLabel = "MODE", defaultValue = "blocking",
            description = "streaming, blocking or auto (default: ${DEFAULT-VALUE}).")
    String mode;

    @Option(names = {"-c", "--concurrency"}, paramLabel = "N", defaultValue = "5",
            description = "Of each process (default: ${DEFAULT-VALUE}).")
    int concurrency;

    @Option(names = "--folder", paramLabel = "DIR", description = "Keeps all files there (default: a temporary folder, "
            + "kept and named if anything is wrong).")
    Path folder;

    @Parameters(paramLabel = "OPTION", description = "After --: options of the simulator, over those of chaos.")
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
        var table = Chaos.Table.write(folder.resolve("data.csv"), rows, seed, false);
        Files.copy(folder.resolve("data.csv"), one.resolve("data.csv"), StandardCopyOption.REPLACE_EXISTING);
        var many = inShards(table);
        var alone = alone(one);
        var differences = differences(folder, one);
        print(many, alone, differences);
        boolean isGood = many.verdict().isGood() && differences.isEmpty();
        if (isGood && !keep) Chaos.Tool.delete(folder);
        else spec.commandLine().getOut().println("files: " + folder);
        spec.commandLine().getOut().flush();
        return isGood ? 0 : 1;
    }

    /// How the rows went in shards, and how long that took until all were merged.
    record Many(Chaos.Verdict verdict, int starts, int kills, double seconds, double merge) {}

    private Many inShards(Chaos.Table table) throws Exception {
        try (var simulator = Chaos.Simulated.start(options()); var threads = Executors.newCachedThreadPool()) {
            tool(folder, simulator, List.of()).archiveClasses();
            var began = System.nanoTime();
            var running = new ArrayList<Future<Chaos.Starts>>();
            for (int index = 1; index <= shards; index++) {
                var shard = new DifyExec.Shard(index, shards);
                running.add(threads.submit(() -> Chaos.torment(tool(folder, simulator, List.of("--shard", "" + shard)),
                        shard.of(folder.resolve("results.jsonl")), rows / shards, kills, seed * 1000 + shard.index())));
            }
            int starts = 0, killed = 0, exit = DifyExec.Exit.OK.code;
            for (var each : running) {
                starts += each.get().starts();
                killed += each.get().kills();
                exit = Math.max(exit, each.get().lastExit());
            }
            double seconds = since(began), before = System.nanoTime();
            Chaos.Tool.said(folder, "merge", "-i", "data.csv", "-o", "results.jsonl");
            double merge = (System.nanoTime() - before) / 1e9;
            return new Many(Chaos.Verdict.of(folder, table, simulator.stats(), exit), starts, killed, seconds, merge);
        }
    }

    /// How long one process takes that has the slots of all, and is never killed.
    private double alone(Path one) throws Exception {
        try (var simulator = Chaos.Simulated.start(options())) {
            var began = System.nanoTime();
            var slots = List.of("-c", String.valueOf(concurrency * shards));
            Chaos.torment(tool(one, simulator, slots), one.resolve("results.jsonl"), rows, 0, seed);
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

    /// What differs besides runs, times and what attempts cost: in `status --json`, the export and the report's rows.
    private static List<String> differences(Path merged, Path one) throws IOException {
        var differences = new ArrayList<String>();
        JsonNode left = Chaos.Tool.status(merged), right = Chaos.Tool.status(one);
        for (var key : STANDINGS)
            if (!left.path(key).equals(right.path(key)))
                differences.add("status " + key + ": " + left.path(key) + ", not " + right.path(key));
        if (!cells(merged).equals(cells(one))) differences.add("export");
        var rows = report(merged);
        if (rows.isEmpty() || !rows.equals(report(one))) differences.add("report");
        return differences;
    }

    /// Of each row the inputs, the outputs and how it ended.
    private static List<String> cells(Path folder) throws IOException {
        var text = new String(Chaos.Tool.said(folder, "export", "-i", "data.csv", "-o", "results.jsonl", "-"), UTF_8);
        return Pattern.compile("\r\n").splitAsStream(text).map(row -> row.replaceFirst("succeeded,.*", "succeeded"))
                .toList();
    }

    /// Of each row in its table the id, the outcome, the cause, the inputs and the outputs.
    private static List<JsonNode> report(Path folder) throws IOException {
        Chaos.Tool.said(folder, "status", "-i", "data.csv", "-o", "results.jsonl", "--html", "report.html");
        var rows = new ArrayList<JsonNode>();
        var tables = ROWS.matcher(Files.readString(folder.resolve("report.html")));
        while (tables.find())
            for (var row : Chaos.JSON.readTree(tables.group(1)))
                for (int column : List.of(0, 1, 2, 7, 8)) rows.add(row.get(column));
        return rows;
    }

    private void print(Many many, double alone, List<String> differences) {
        var verdict = many.verdict();
        var out = spec.commandLine().getOut();
        out.println("| dify | mode | rows | shards | kills | starts | lost | torn | wrong | twice | unknown | failed | "
                + "pending | s | merge s | one process s | differs | seed | server |");
        out.println("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|---|");
        out.println("| " + Stream.of(version, mode, rows, shards, many.kills(), many.starts(), verdict.lost().size(),
                verdict.torn(), verdict.wrong().size(), verdict.twice().size(), verdict.unknown(), verdict.failed(),
                verdict.pending(), seconds(many.seconds()), seconds(many.merge()), seconds(alone),
                differences.isEmpty() ? "nothing" : String.join("; ", differences), seed, String.join(" ", server))
                .map(String::valueOf).collect(Collectors.joining(" | ")) + " |");
        out.flush();
    }

    private static String seconds(double seconds) {
        return String.format(Locale.ROOT, "%.1f", seconds);
    }
}
