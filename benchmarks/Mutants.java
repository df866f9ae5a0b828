///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Removes one guard of DifyExec at a time and checks that a test fails.
//SOURCES Mutant.java
//SOURCES IoFault.java
//SOURCES ../tests/DifyExecTest.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//DEPS org.junit.platform:junit-platform-launcher:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import org.junit.jupiter.api.Nested;
import org.junit.platform.engine.CancellationToken;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherExecutionRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

import module java.base;
import module java.management;

/// Each mutant in `mutants.txt` removes a guard, inverts a comparison or swaps an order. Compiles the tool with each
/// mutant and runs its test classes in another process until a test fails. Exit code 1 if none does, or, before any
/// test runs, if a mutant does not apply or compile. `--check` does only that. `--seeds` and `--sweep` run the mutants
/// that `benchmarks/seeds` or `benchmarks/iofault` notices against these, and so are those that no test notices.
final class Mutants {
    private static final Duration LONGEST = Duration.ofMinutes(15);
    private static final String FAILED = "FAILED ";

    public static void main(String... args) throws Exception {
        if (args.length > 0 && args[0].equals("suite")) suite(List.of(args).subList(1, args.length));
        var checkout = Stream.of("", "..").map(Path::of).filter(path -> Files.exists(path.resolve("DifyExec.java")))
                .findFirst().orElseThrow(() -> new IllegalStateException(
                        "DifyExec.java not found\nhint: start in the checkout"));
        var words = new ArrayList<>(List.of(args));
        boolean isCheck = words.remove("--check"), isSeeds = words.remove("--seeds"),
                isSweep = words.remove("--sweep");
        var wanted = String.join(" ", words);
        var mutants = Mutant.read(checkout.resolve("benchmarks/mutants.txt")).stream()
                .filter(mutant -> mutant.name().contains(wanted))
                .filter(mutant -> !isSeeds || !mutant.seeds().isEmpty())
                .filter(mutant -> !isSweep || !mutant.sweep().isEmpty()).toList();
        if (mutants.isEmpty()) throw new IllegalStateException("no mutant's name contains " + wanted);
        var source = new Mutant.Source(Files.readString(checkout.resolve("DifyExec.java")));
        var problems = problems(mutants, source);
        problems.forEach(System.err::println);
        if (isCheck || !problems.isEmpty()) {
            IO.println(mutants.size() + " mutants: " + (mutants.size() - problems.size()) + " apply and compile");
            System.exit(problems.isEmpty() ? 0 : 1);
        }
        var survivors = new ArrayList<String>();
        for (var mutant : mutants) {
            var notices = isSeeds || mutant.tests().isEmpty() && !mutant.seeds().isEmpty() ? seeds(mutant)
                    : isSweep || mutant.tests().isEmpty() ? sweep(mutant, checkout) : suite(mutant);
            if (!isCaught(mutant, source, notices)) survivors.add(mutant.name());
        }
        mutants.stream().filter(mutant -> mutant.tests().isEmpty()).forEach(mutant -> IO.println("only "
                + (mutant.seeds().isEmpty() ? "the sweep" : "seeds") + ": " + mutant.name()));
        IO.println(mutants.size() + " mutants: " + (mutants.size() - survivors.size()) + " caught"
                + (survivors.isEmpty() ? "" : "; survivors: " + String.join("; ", survivors)));
        System.exit(survivors.isEmpty() ? 0 : 1);
    }

    /// Names each mutant that does not apply, whose tests do not exist, or that does not compile.
    private static List<String> problems(List<Mutant> mutants, Mutant.Source source) throws IOException {
        var problems = new ArrayList<String>();
        var edits = new LinkedHashMap<Mutant, List<Mutant.Edit>>();
        for (var mutant : mutants) {
            try {
                edits.put(mutant, mutant.edits(source));
                classes(mutant.tests());
            } catch (IllegalStateException problem) {
                problems.add(mutant.name() + ": " + problem.getMessage());
            }
        }
        while (!edits.isEmpty()) { // compiling each alone would take minutes
            var apart = new LinkedHashMap<Mutant, List<Mutant.Edit>>();
            edits.forEach((mutant, own) -> {
                boolean isFree = apart.values().stream().flatMap(List::stream)
                        .noneMatch(other -> own.stream().anyMatch(other::overlaps));
                if (isFree) apart.put(mutant, own);
            });
            edits.keySet().removeAll(apart.keySet());
            problems.addAll(errors(List.copyOf(apart.entrySet()), source));
        }
        return problems;
    }

    /// Compiles mutants of different places together, and again in halves if they do not compile.
    private static List<String> errors(List<Map.Entry<Mutant, List<Mutant.Edit>>> mutants, Mutant.Source source)
            throws IOException {
        var edits = mutants.stream().flatMap(mutant -> mutant.getValue().stream()).toList();
        var errors = Mutant.Source.compile(Mutant.Edit.apply(edits, source.text), Optional.empty());
        if (errors.isEmpty()) return List.of();
        if (mutants.size() == 1)
            return List.of(mutants.getFirst().getKey().name() + ": does not compile: " + errors.getFirst());
        var problems = new ArrayList<>(errors(mutants.subList(0, mutants.size() / 2), source));
        problems.addAll(errors(mutants.subList(mutants.size() / 2, mutants.size()), source));
        return problems;
    }

    /// A program that runs with the mutant, and the words before what it has noticed.
    private record Notices(List<String> command, String mark) {}

    private static Notices suite(Mutant mutant) {
        var command = new ArrayList<>(List.of(Mutants.class.getName(), "suite"));
        command.addAll(mutant.tests());
        return new Notices(command, FAILED);
    }

    private static Notices seeds(Mutant mutant) {
        return new Notices(List.of("difyexec.Seeds", "--first", "--seeds", mutant.seeds().getFirst()), "seed ");
    }

    private static Notices sweep(Mutant mutant, Path checkout) {
        var command = new ArrayList<>(List.of("difyexec.IoFault", "--source",
                checkout.resolve("benchmarks/iofault.c").toString()));
        command.addAll(mutant.sweep());
        return new Notices(command, "benchmarks/iofault ");
    }

    private static boolean isCaught(Mutant mutant, Mutant.Source source, Notices notices) throws Exception {
        long began = System.nanoTime();
        var folder = Files.createTempDirectory("mutant");
        try {
            Mutant.Source.compile(Mutant.Edit.apply(mutant.edits(source), source.text), Optional.of(folder));
            var failed = firstFailure(mutant, notices, folder);
            IO.println("%-8s %5.1f s  %s%s".formatted(failed.isEmpty() ? "survived" : "caught",
                    (System.nanoTime() - began) / 1e9, mutant.name(), failed.map(test -> "  ← " + test).orElse("")));
            return failed.isPresent();
        } finally {
            try (var files = Files.walk(folder)) {
                files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
            }
        }
    }

    private static Optional<String> firstFailure(Mutant mutant, Notices notices, Path classes) throws Exception {
        var command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
        command.addAll(ManagementFactory.getRuntimeMXBean().getInputArguments());
        command.addAll(List.of("-XX:TieredStopAtLevel=1", "-cp", classes + File.pathSeparator
                + System.getProperty("java.class.path")));
        command.addAll(notices.command());
        var log = classes.resolve("log");
        var suite = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start();
        if (!suite.waitFor(LONGEST)) {
            suite.descendants().forEach(ProcessHandle::destroyForcibly);
            suite.destroyForcibly().waitFor();
            return Optional.of("timed out after " + LONGEST.toMinutes() + " minutes");
        }
        if (suite.exitValue() == 0) return Optional.empty();
        try (var lines = Files.lines(log)) {
            return Optional.of(lines.filter(line -> line.startsWith(notices.mark()))
                    .map(line -> line.substring(notices.mark().length()))
                    .findFirst()
                    .orElseThrow(() -> new IllegalStateException(mutant.name() + ": the tests crashed")));
        }
    }

    /// Runs the named classes until the first failure.
    private static void suite(List<String> names) {
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
        launcher.execute(LauncherExecutionRequestBuilder.request(LauncherDiscoveryRequestBuilder.request()
                .selectors(classes(names).stream().map(DiscoverySelectors::selectClass).toList()).build())
                .cancellationToken(stop).build());
        System.exit(stop.isCancellationRequested() ? 1 : 0);
    }

    private static List<Class<?>> classes(List<String> names) {
        var classes = DifyExecTest.CLASSES.stream().<Class<?>>flatMap(type -> Stream.of(type.getDeclaredClasses()))
                .filter(type -> type.isAnnotationPresent(Nested.class)).toList();
        for (var name : names) if (classes.stream().noneMatch(type -> type.getSimpleName().equals(name)))
            throw new IllegalStateException("no test class " + name);
        return classes.stream().filter(type -> names.contains(type.getSimpleName())).toList();
    }
}
