///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Changes a rule of DifyExec at a time and tells whether the suite turns red.
//SOURCES ../tests/DifyExecTest.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

import module java.base;
import module java.compiler;

import javax.tools.ToolProvider;

import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.joining;

/// Each change of `mutants.txt` takes a guard out, turns a comparison or swaps an order. The file is compiled with it,
/// and the suite runs in a JVM of its own until the first test fails. A change that no test notices survives.
final class Mutants {
    private static final Duration LONGEST = Duration.ofMinutes(6);

    /// @param type  the type at the top of the file in which `before` stands, exactly once
    /// @param tests classes of the suite that are run first
    record Mutant(String name, String type, List<String> tests, String before, String after) {
        /// Blocks parted by blank lines: `# name`, `in: Type`, `tests: TheJudge TheEngine`, then lines with `-` and `+`.
        static List<Mutant> read(Path file) throws IOException {
            return Stream.of(Files.readString(file).strip().split("\n\n+")).map(Mutant::of).toList();
        }

        private static Mutant of(String block) {
            var lines = block.lines().toList();
            return new Mutant(field(lines, "# "), field(lines, "in: "), List.of(field(lines, "tests: ").split(" ")),
                    marked(lines, "-"), marked(lines, "+"));
        }

        private static String field(List<String> lines, String mark) {
            return lines.stream().filter(line -> line.startsWith(mark)).findFirst().orElseThrow(
                    () -> new IllegalArgumentException("no '" + mark + "' in " + lines)).substring(mark.length());
        }

        private static String marked(List<String> lines, String mark) {
            return lines.stream().filter(line -> line.startsWith(mark)).map(line -> line.substring(1))
                    .collect(joining("\n"));
        }

        /// The source with this change. Blanks at the ends of lines and indentation do not count.
        String apply(String source) {
            int from = source.indexOf("\n", typeStart(source)), end = source.indexOf("\n    }\n", from);
            var pattern = before.lines().map(line -> Pattern.quote(line.strip())).collect(joining("\\s*\n\\s*"));
            var found = Pattern.compile(pattern).matcher(source).region(from, end).results().toList();
            if (found.size() != 1) throw new IllegalStateException(name + ": stands " + found.size() + " times in " + type);
            return source.substring(0, found.getFirst().start()) + after.strip() + source.substring(found.getFirst().end());
        }

        private int typeStart(String source) {
            var start = Pattern.compile("\n    (?:[a-z@][\\w ]* )?(?:class|record|interface|enum) " + type + "\\b")
                    .matcher(source);
            if (!start.find()) throw new IllegalStateException(name + ": there is no type " + type);
            return start.start() + 1;
        }
    }

    public static void main(String... args) throws Exception {
        if (args.length > 0 && args[0].equals("suite")) suite(List.of(args).subList(1, args.length));
        var checkout = Stream.of("", "..").map(Path::of).filter(path -> Files.exists(path.resolve("DifyExec.java")))
                .findFirst().orElseThrow(() -> new IllegalStateException("start in the checkout"));
        var wanted = args.length == 0 ? "" : args[0];
        var mutants = Mutant.read(checkout.resolve("benchmarks/mutants.txt")).stream()
                .filter(mutant -> mutant.name().contains(wanted)).toList();
        var source = Files.readString(checkout.resolve("DifyExec.java"));
        mutants.forEach(mutant -> mutant.apply(source)); // one that does not fit is told before an hour is spent
        var survivors = new ArrayList<String>();
        for (var mutant : mutants) if (!isKilled(mutant, source)) survivors.add(mutant.name());
        IO.println(mutants.size() + " changes: " + (mutants.size() - survivors.size()) + " turn the suite red"
                + (survivors.isEmpty() ? "" : "; survivors: " + String.join("; ", survivors)));
        System.exit(survivors.isEmpty() ? 0 : 1);
    }

    private static boolean isKilled(Mutant mutant, String source) throws Exception {
        long began = System.nanoTime();
        var folder = Files.createTempDirectory("mutant");
        try {
            compile(mutant.apply(source), folder);
            var red = run(folder, mutant);
            IO.println("%-8s %5.1f s  %s%s".formatted(red.isEmpty() ? "SURVIVED" : "red",
                    (System.nanoTime() - began) / 1e9, mutant.name(), red.map(test -> "  ← " + test).orElse("")));
            return red.isPresent();
        } finally {
            try (var files = Files.walk(folder)) {
                files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
            }
        }
    }

    private static void compile(String source, Path folder) throws IOException {
        var compiler = ToolProvider.getSystemJavaCompiler();
        var file = folder.resolve("DifyExec.java");
        Files.writeString(file, source);
        var said = new StringWriter();
        try (var manager = compiler.getStandardFileManager(null, null, UTF_8)) {
            var options = List.of("-proc:none", "-parameters", "-d", folder.toString(), "-cp",
                    System.getProperty("java.class.path"));
            if (!compiler.getTask(said, manager, null, options, null, manager.getJavaFileObjects(file)).call())
                throw new IllegalStateException("does not compile:\n" + said);
        }
    }

    /// The first test that fails, or nothing.
    private static Optional<String> run(Path classes, Mutant mutant) throws Exception {
        var command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED", "-Djdk.httpclient.keepalive.timeout=1",
                "-Djdk.http.auth.tunneling.disabledSchemes=", "-XX:+UseSerialGC", "-cp",
                classes + File.pathSeparator + System.getProperty("java.class.path"), Mutants.class.getName(), "suite"));
        command.addAll(mutant.tests());
        var log = classes.resolve("log").toFile();
        var process = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log).start();
        if (!process.waitFor(LONGEST)) {
            process.descendants().forEach(ProcessHandle::destroyForcibly);
            process.destroyForcibly().waitFor();
            return Optional.of("the suite does not end");
        }
        var lines = Files.readAllLines(log.toPath());
        return process.exitValue() == 0 ? Optional.empty()
                : lines.stream().filter(line -> line.startsWith("RED ")).map(line -> line.substring(4)).findFirst()
                        .or(() -> Optional.of("exit " + process.exitValue()));
    }

    /// The named classes first, then all; ends the JVM at the first failure.
    private static void suite(List<String> first) throws Exception {
        var launcher = LauncherFactory.create();
        launcher.registerTestExecutionListeners(new TestExecutionListener() {
            @Override
            public void executionFinished(TestIdentifier test, TestExecutionResult result) {
                if (result.getStatus() != TestExecutionResult.Status.FAILED) return;
                IO.println("RED " + test.getUniqueId().replaceAll(".*class:([^\\]]*)].*:(\\w+)\\(.*", "$1 $2"));
                Runtime.getRuntime().halt(1);
            }
        });
        var named = DifyExecTest.CLASSES.stream().flatMap(type -> Stream.of(type.getDeclaredClasses()))
                .filter(type -> first.contains(type.getSimpleName())).toList();
        for (var classes : List.of(named, DifyExecTest.CLASSES))
            launcher.execute(LauncherDiscoveryRequestBuilder.request()
                    .selectors(classes.stream().map(DiscoverySelectors::selectClass).toList()).build());
        Runtime.getRuntime().halt(0);
    }
}
