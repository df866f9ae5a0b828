///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Compares speed, processor time and memory with the Python loop that users write instead.
//SOURCES Pace.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

import module java.base;

/// Runs `loop.py` and the tool of this checkout in turns, each in a process of its own, against the server of [Pace].
/// The loop has one pool of connections. It neither resumes nor looks anything up, and writes nothing to disk.
@Command(name = "peers", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = {"Compare the tool with a Python loop (asyncio, aiohttp); print a Markdown table. Needs Python with "
                + "aiohttp and a system with /proc. Exit code 1 if a bar is missed, 2 if something is missing.", ""},
        footer = {"", "Example: benchmarks/peers --rounds 1 --rows 5000"})
final class Peers implements Callable<Integer> {
    @Option(names = "--rounds", paramLabel = "N", defaultValue = "5",
            description = "Measure N times and use the medians (default: ${DEFAULT-VALUE}).")
    int rounds;

    @Option(names = "--rows", paramLabel = "N", defaultValue = "30000",
            description = "Run N rows at 64 at a time, and a third of them one at a time (default: ${DEFAULT-VALUE}).")
    int rows;

    @Option(names = "--python", paramLabel = "COMMAND", defaultValue = "python3",
            description = "Run the loop with this Python (default: ${DEFAULT-VALUE}).")
    String python;

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(new CommandLine(new Peers()).execute(args));
    }

    /// @param rate      the least rate relative to the loop
    /// @param processor the largest processor time per row relative to the loop
    record Case(String mode, int clients, double rate, double processor) {
        @Override
        public String toString() {
            return mode + ", " + (clients == 1 ? "one" : clients) + " at a time";
        }
    }

    private static final List<Case> CASES = List.of(new Case("blocking", 64, 0.9, 1.8),
            new Case("streaming", 64, 0.9, 1.6), new Case("blocking", 1, 0.5, Double.POSITIVE_INFINITY));

    @Override
    public Integer call() throws Exception {
        var version = version();
        if (version.isEmpty()) {
            spec.commandLine().getErr().println("peers: " + python + " with aiohttp is missing: pip install aiohttp");
            return 2;
        }
        var root = Files.createTempDirectory("peers-");
        Runtime.getRuntime().addShutdownHook(new Thread(() -> Pace.delete(root)));
        var home = Path.of(Objects.requireNonNullElse(System.getenv("DIFYEXEC_HOME"), ".")).toAbsolutePath();
        var loop = new Pace.Tool("loop", List.of(python, home.resolve("benchmarks/loop.py").toString()));
        var tool = Pace.Tool.of(new Pace.Release("difyexec", ""), root, List.of());
        boolean isMet = true;
        print(Pace.machine() + ", " + version.get() + "; medians of " + rounds + "\n");
        print("| case | | loop | difyexec | compared | bar | met | all rounds |\n|---|---|--:|--:|--:|--:|---|--:|");
        for (var one : CASES) {
            var figures = new TreeMap<String, List<Pace.Figures>>();
            for (int round = 0; round < rounds; round++)
                for (var peer : round % 2 == 0 ? List.of(loop, tool) : List.of(tool, loop))
                    figures.computeIfAbsent(peer.name(), _ -> new ArrayList<>()).add(measure(peer, one, root));
            isMet &= show(one + " | rows/s", "rate", figures, one.rate(), true);
            isMet &= show(one + " | processor time per row, in ms", "processor", figures, one.processor(), false);
            isMet &= show(one + " | memory in MB", "memory", figures, Double.POSITIVE_INFINITY, false);
        }
        return isMet ? 0 : 1;
    }

    /// Returns the versions of Python and aiohttp, or empty if one of them is missing.
    private Optional<String> version() throws Exception {
        try {
            var process = new ProcessBuilder(python, "-c",
                    "import aiohttp, sys; print('Python', sys.version.split()[0] + ', aiohttp', aiohttp.__version__)")
                    .redirectError(ProcessBuilder.Redirect.DISCARD).start();
            var text = new String(process.getInputStream().readAllBytes()).strip();
            return process.waitFor() == 0 ? Optional.of(text) : Optional.empty();
        } catch (IOException _) {
            return Optional.empty();
        }
    }

    private Pace.Figures measure(Pace.Tool peer, Case one, Path root) throws Exception {
        var folder = Files.createTempDirectory(root, "batch-");
        Pace.Data.write(folder.resolve("data.csv"), one.clients() == 1 ? rows / 3 : rows);
        try (var server = new Pace.Server(Duration.ZERO, false)) {
            var end = peer.call(folder, server, 0, "run", "--mode", one.mode(), "-c", "" + one.clients());
            var figures = Pace.Bench.figures(server, end);
            spec.commandLine().getErr().println(one + ", " + peer.name() + ": " + figures.values());
            return figures;
        } finally {
            Pace.delete(folder);
        }
    }

    /// Prints a line of the table. Returns whether the median of the rounds' ratios meets the bar.
    private boolean show(String title, String name, Map<String, List<Pace.Figures>> figures, double bar,
            boolean isLeast) {
        var loop = figures.get("loop").stream().mapToDouble(one -> one.of(name)).toArray();
        var tool = figures.get("difyexec").stream().mapToDouble(one -> one.of(name)).toArray();
        var ratios = IntStream.range(0, loop.length).mapToDouble(round -> tool[round] / loop[round]).toArray();
        double ratio = Pace.Bar.median(ratios);
        boolean isMet = isLeast ? ratio >= bar : ratio <= bar;
        var limit = Double.isInfinite(bar) ? " | " : (isLeast ? "≥ " : "≤ ") + bar + " | " + (isMet ? "yes" : "**no**");
        print("| " + title + " | " + number(Pace.Bar.median(loop)) + " | " + number(Pace.Bar.median(tool)) + " | "
                + number(ratio) + " | " + limit + " | "
                + DoubleStream.of(ratios).mapToObj(Peers::number).collect(Collectors.joining(", ")) + " |");
        return isMet;
    }

    private static String number(double value) {
        return String.format(Locale.ROOT, value < 10 ? "%.2f" : "%,.0f", value);
    }

    private void print(String line) {
        spec.commandLine().getOut().println(line);
        spec.commandLine().getOut().flush();
    }
}
