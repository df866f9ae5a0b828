///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Takes a guard of DifyExec out at a time and tells whether the suite turns red.
//SOURCES ../tests/DifyExecTest.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import org.junit.platform.engine.CancellationToken;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherExecutionRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

import javax.tools.ToolProvider;

import module java.base;
import module java.compiler;
import module java.management;

import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.joining;

/// Each change of `mutants.txt` takes a guard out, turns a comparison or swaps an order. The tool is compiled with it,
/// and the suite runs in a process of its own until a test fails. A change that no test notices survives; then the exit
/// code is 1.
final class Mutants {
    private static final Duration LONGEST = Duration.ofMinutes(15);
    private static final String RED = "RED ";

    /// @param type  the type at the top of the file in which `before` stands, exactly once
    /// @param tests classes of the suite that are run first
    record Mutant(String name, String type, List<String> tests, String before, String after) {
        static final Mutant NONE = new Mutant("no change", "Judge", List.of(), "record Judge(", "record Judge(");

        /// Blocks parted by blank lines: `# name`, `in: Type`, `tests: TheJudge TheEngine`, then what goes (`-`) and
        /// what comes in its place (`+`).
        static List<Mutant> read(Path file) throws IOException {
            return Stream.of(Files.readString(file).strip().split("\n\n+")).map(Mutant::of).toList();
        }

        private static Mutant of(String block) {
            return new Mutant(marked(block, "# "), marked(block, "in: "), List.of(marked(block, "tests: ").split(" ")),
                    marked(block, "-"), marked(block, "+"));
        }

        private static String marked(String block, String mark) {
            return block.lines().filter(line -> line.startsWith(mark)).map(line -> line.substring(mark.length()))
                    .collect(joining("\n"));
        }

        /// The source with this change. How lines are indented does not count.
        String apply(String source) {
            int from = typeStart(source), end = source.indexOf("\n    }\n", from);
            var lines = before.lines().map(line -> Pattern.quote(line.strip())).collect(joining("\\s*\n\\s*"));
            var found = Pattern.compile(lines).matcher(source).region(from, end).results().toList();
            if (found.size() != 1)
                throw new IllegalStateException(name + ": stands " + found.size() + " times in " + type);
            var place = found.getFirst();
            return source.substring(0, place.start()) + after.strip() + source.substring(place.end());
        }

        private int typeStart(String source) {
            var start = Pattern.compile("\n    (?:[a-z]+ )*(?:class|record|interface|enum) " + type + "\\b")
                    .matcher(source);
            if (!start.find()) throw new IllegalStateException(name + ": there is no type " + type);
            return start.start() + 1;
        }
    }

    public static void main(String... args) throws Exception {
        if (args.length > 0 && args[0].equals("suite")) suite(List.of(args).subList(1, args.length));
        var checkout = Stream.of("", "..").map(Path::of).filter(path -> Files.exists(path.resolve("DifyExec.java")))
                .findFirst().orElseThrow(() -> new IllegalStateException("start in the checkout"));
        var wanted = String.join(" ", args);
        var mutants = Mutant.read(checkout.resolve("benchmarks/mutants.txt")).stream()
                .filter(mutant -> mutant.name().contains(wanted)).toList();
        var source = Files.readString(checkout.resolve("DifyExec.java"));
        mutants.forEach(mutant -> mutant.apply(source)); // one that no longer fits is told before an hour is spent
        if (wanted.isEmpty() && turnsRed(Mutant.NONE, source))
            throw new IllegalStateException("the suite is red without a change");
        var survivors = new ArrayList<String>();
        for (var mutant : mutants) if (!turnsRed(mutant, source)) survivors.add(mutant.name());
        IO.println(mutants.size() + " changes: " + (mutants.size() - survivors.size()) + " turn the suite red"
                + (survivors.isEmpty() ? "" : "; survivors: " + String.join("; ", survivors)));
        System.exit(survivors.isEmpty() ? 0 : 1);
    }

    private static boolean turnsRed(Mutant mutant, String source) throws Exception {
        long began = System.nanoTime();
        var folder = Files.createTempDirectory("mutant");
        try {
            compile(mutant, source, folder);
            var red = run(mutant, folder);
            IO.println("%-5s %5.1f s  %s%s".formatted(red.isEmpty() ? "green" : "red",
                    (System.nanoTime() - began) / 1e9, mutant.name(), red.map(test -> "  ← " + test).orElse("")));
            return red.isPresent();
        } finally {
            try (var files = Files.walk(folder)) {
                files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
            }
        }
    }

    private static void compile(Mutant mutant, String source, Path folder) throws IOException {
        var compiler = ToolProvider.getSystemJavaCompiler();
        var file = Files.writeString(folder.resolve("DifyExec.java"), mutant.apply(source));
        var said = new StringWriter();
        try (var manager = compiler.getStandardFileManager(null, null, UTF_8)) {
            var options = List.of("-proc:none", "-parameters", "-d", folder.toString(), "-cp",
                    System.getProperty("java.class.path"));
            if (!compiler.getTask(said, manager, null, options, null, manager.getJavaFileObjects(file)).call())
                throw new IllegalStateException(mutant.name() + ": does not compile\n" + said);
        }
    }

    /// The first test that fails, or nothing.
    private static Optional<String> run(Mutant mutant, Path classes) throws Exception {
        var command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
        command.addAll(ManagementFactory.getRuntimeMXBean().getInputArguments());
        command.addAll(List.of("-XX:TieredStopAtLevel=1", "-cp", classes + File.pathSeparator
                + System.getProperty("java.class.path"), Mutants.class.getName(), "suite"));
        command.addAll(mutant.tests());
        var log = classes.resolve("log");
        var suite = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start();
        if (!suite.waitFor(LONGEST)) {
            suite.descendants().forEach(ProcessHandle::destroyForcibly);
            suite.destroyForcibly().waitFor();
            return Optional.of("the suite does not end");
        }
        if (suite.exitValue() == 0) return Optional.empty();
        try (var lines = Files.lines(log)) {
            return Optional.of(lines.filter(line -> line.startsWith(RED)).map(line -> line.substring(RED.length()))
                    .findFirst().orElseThrow(() -> new IllegalStateException(mutant.name() + ": the suite broke")));
        }
    }

    /// The named classes first, then all; the first failure ends it.
    private static void suite(List<String> first) {
        var red = CancellationToken.create();
        var launcher = LauncherFactory.create();
        launcher.registerTestExecutionListeners(new TestExecutionListener() {
            @Override
            public void executionFinished(TestIdentifier test, TestExecutionResult result) {
                if (result.getStatus() != TestExecutionResult.Status.FAILED || red.isCancellationRequested()) return;
                IO.println(RED + test.getUniqueId().replaceAll("/\\[(?:test-template-)?invocation:[^/]*", "")
                        .replaceAll(".*[:/]([^:/]+)\\]/\\[[^:]*:(\\w+).*", "$1.$2"));
                red.cancel();
            }
        });
        var named = DifyExecTest.CLASSES.stream().flatMap(type -> Stream.of(type.getDeclaredClasses()))
                .filter(type -> first.contains(type.getSimpleName())).toList();
        if (named.size() < first.size()) throw new IllegalStateException("not all are classes of the suite: " + first);
        for (var classes : List.of(named, DifyExecTest.CLASSES))
            launcher.execute(LauncherExecutionRequestBuilder.request(LauncherDiscoveryRequestBuilder.request()
                    .selectors(classes.stream().map(DiscoverySelectors::selectClass).toList()).build())
                    .cancellationToken(red).build());
        System.exit(red.isCancellationRequested() ? 1 : 0);
    }
}
