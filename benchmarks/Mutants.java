///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Removes one guard of DifyExec at a time and checks that a test fails.
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

/// Each mutant in `mutants.txt` removes a guard, inverts a comparison or swaps an order. Compiles the tool with each
/// mutant and runs the tests in another process until one fails. Exit code 1 if all tests pass with a mutant.
final class Mutants {
    private static final Duration LONGEST = Duration.ofMinutes(15);
    private static final String FAILED = "FAILED ";

    /// @param type  the top-level type that contains `before` exactly once
    /// @param tests test classes to run first
    record Mutant(String name, String type, List<String> tests, String before, String after) {
        static final Mutant NONE = new Mutant("unchanged", "Judge", List.of(), "record Judge(", "record Judge(");

        /// The blocks are separated by blank lines: `# name`, `in: Type`, `tests: TheJudge TheEngine`, then the removed
        /// (`-`) and the added (`+`) lines.
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

        /// Ignores indentation.
        String apply(String source) {
            int from = typeStart(source), end = source.indexOf("\n    }\n", from);
            var lines = before.lines().map(line -> Pattern.quote(line.strip())).collect(joining("\\s*\n\\s*"));
            var found = Pattern.compile(lines).matcher(source).region(from, end).results().toList();
            if (found.size() != 1)
                throw new IllegalStateException(name + ": found " + found.size() + " times in " + type + ", not once");
            var place = found.getFirst();
            return source.substring(0, place.start()) + after.strip() + source.substring(place.end());
        }

        private int typeStart(String source) {
            var start = Pattern.compile("\n    (?:[a-z]+ )*(?:class|record|interface|enum) " + type + "\\b")
                    .matcher(source);
            if (!start.find()) throw new IllegalStateException(name + ": no type " + type);
            return start.start() + 1;
        }
    }

    public static void main(String... args) throws Exception {
        if (args.length > 0 && args[0].equals("suite")) suite(List.of(args).subList(1, args.length));
        var checkout = Stream.of("", "..").map(Path::of).filter(path -> Files.exists(path.resolve("DifyExec.java")))
                .findFirst().orElseThrow(() -> new IllegalStateException(
                        "DifyExec.java not found\nhint: start in the checkout"));
        var wanted = String.join(" ", args);
        var mutants = Mutant.read(checkout.resolve("benchmarks/mutants.txt")).stream()
                .filter(mutant -> mutant.name().contains(wanted)).toList();
        var source = Files.readString(checkout.resolve("DifyExec.java"));
        mutants.forEach(mutant -> mutant.apply(source)); // report outdated mutants before the tests run
        if (wanted.isEmpty() && isCaught(Mutant.NONE, source))
            throw new IllegalStateException("the tests fail without a mutant");
        var survivors = new ArrayList<String>();
        for (var mutant : mutants) if (!isCaught(mutant, source)) survivors.add(mutant.name());
        IO.println(mutants.size() + " mutants: " + (mutants.size() - survivors.size()) + " caught"
                + (survivors.isEmpty() ? "" : "; survivors: " + String.join("; ", survivors)));
        System.exit(survivors.isEmpty() ? 0 : 1);
    }

    private static boolean isCaught(Mutant mutant, String source) throws Exception {
        long began = System.nanoTime();
        var folder = Files.createTempDirectory("mutant");
        try {
            compile(mutant, source, folder);
            var failed = firstFailure(mutant, folder);
            IO.println("%-8s %5.1f s  %s%s".formatted(failed.isEmpty() ? "survived" : "caught",
                    (System.nanoTime() - began) / 1e9, mutant.name(), failed.map(test -> "  ← " + test).orElse("")));
            return failed.isPresent();
        } finally {
            try (var files = Files.walk(folder)) {
                files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
            }
        }
    }

    private static void compile(Mutant mutant, String source, Path folder) throws IOException {
        var compiler = ToolProvider.getSystemJavaCompiler();
        var file = Files.writeString(folder.resolve("DifyExec.java"), mutant.apply(source));
        var errors = new StringWriter();
        try (var manager = compiler.getStandardFileManager(null, null, UTF_8)) {
            var options = List.of("-proc:none", "-parameters", "-d", folder.toString(), "-cp",
                    System.getProperty("java.class.path"));
            if (!compiler.getTask(errors, manager, null, options, null, manager.getJavaFileObjects(file)).call())
                throw new IllegalStateException(mutant.name() + ": does not compile\n" + errors);
        }
    }

    private static Optional<String> firstFailure(Mutant mutant, Path classes) throws Exception {
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
            return Optional.of("timed out after " + LONGEST.toMinutes() + " minutes");
        }
        if (suite.exitValue() == 0) return Optional.empty();
        try (var lines = Files.lines(log)) {
            return Optional.of(lines.filter(line -> line.startsWith(FAILED))
                    .map(line -> line.substring(FAILED.length()))
                    .findFirst()
                    .orElseThrow(() -> new IllegalStateException(mutant.name() + ": the tests crashed")));
        }
    }

    /// Runs the named classes, then all, until the first failure.
    private static void suite(List<String> first) {
        var stop = CancellationToken.create();
        var launcher = LauncherFactory.create();
        launcher.registerTestExecutionListeners(new TestExecutionListener() {
            @Override
            public void executionFinished(TestIdentifier test, TestExecutionResult result) {
                if (result.getStatus() != TestExecutionResult.Status.FAILED || stop.isCancellationRequested()) return;
                IO.println(FAILED + test.getUniqueId().replaceAll("/\\[(?:test-template-)?invocation:[^/]*", "")
                        .replaceAll(".*[:/]([^:/]+)\\]/\\[[^:]*:(\\w+).*", "$1.$2"));
                stop.cancel();
            }
        });
        var named = DifyExecTest.CLASSES.stream().flatMap(type -> Stream.of(type.getDeclaredClasses()))
                .filter(type -> first.contains(type.getSimpleName())).toList();
        if (named.size() < first.size()) throw new IllegalStateException("unknown test class in " + first);
        for (var classes : List.of(named, DifyExecTest.CLASSES))
            launcher.execute(LauncherExecutionRequestBuilder.request(LauncherDiscoveryRequestBuilder.request()
                    .selectors(classes.stream().map(DiscoverySelectors::selectClass).toList()).build())
                    .cancellationToken(stop).build());
        System.exit(stop.isCancellationRequested() ? 1 : 0);
    }
}
