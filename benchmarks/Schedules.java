///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Runs small scenes of two or three threads under thousands of schedules, and checks that planted races are found.
//SOURCES Mutant.java
//SOURCES ../DifyExec.java
//SOURCES ../tests/support/Given.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import difyexec.Given.*;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;

/// Scenes of the places that several threads share. Fray decides which thread runs at each step, in another way each
/// time. Each scene runs with the tool as it is, and must never fail, and with a race of `races.txt`, which it must
/// find.
///
/// Fray controls the locks and threads of a JDK of its own, which is made once of the present one. Only the scenes run
/// there, each in a process of its own.
@Command(name = "schedules", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Run scenes of two or three threads under schedules that Fray chooses. Exit code 1 if a scene "
                + "fails, or does not find its planted race.",
        footer = {"", "Example: benchmarks/schedules --scene signal --schedules 1000"})
final class Schedules implements Callable<Integer> {
    private static final String NO_RACE = "no race: ";

    @Option(names = "--cache", paramLabel = "DIR", description = "Install Fray here (default: ~/.cache/difyexec).")
    Path cache = Path.of(Objects.requireNonNullElse(System.getenv("XDG_CACHE_HOME"),
            System.getProperty("user.home") + "/.cache"), "difyexec");

    @Option(names = "--schedules", paramLabel = "N", defaultValue = "10000",
            description = "Try N schedules of each scene (default: ${DEFAULT-VALUE}).")
    int schedules;

    @Option(names = "--scene", paramLabel = "NAME", split = ",", defaultValue = "mailbox,events,stop,signal,commit",
            description = "These scenes only (default: ${DEFAULT-VALUE}).")
    List<String> scenes = List.of();

    static void main(String... args) {
        System.exit(new CommandLine(new Schedules()).setExecutionExceptionHandler((problem, line, _) -> {
            if (!(problem instanceof Unusable)) throw problem;
            line.getErr().println("schedules: " + problem.getMessage());
            return 2;
        }).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var fray = Fray.in(cache.resolve("fray-" + Fray.VERSION));
        var checkout = Stream.of("", "..").map(Path::of).filter(path -> Files.exists(path.resolve("DifyExec.java")))
                .findFirst().orElseThrow(() -> new IllegalStateException("start in the checkout"));
        var source = new Mutant.Source(Files.readString(checkout.resolve("DifyExec.java")));
        var all = Mutant.read(checkout.resolve("benchmarks/races.txt"));
        var always = all.stream().filter(race -> race.name().startsWith(NO_RACE))
                .flatMap(race -> race.edits(source).stream()).toList();
        boolean isGood = true;
        for (var scene : scenes) {
            isGood &= !found(fray, scene, source, always, "the tool as it is");
            for (var race : all) if (race.tests().getFirst().equals(scene)) {
                var edits = Stream.concat(always.stream(), race.edits(source).stream()).toList();
                isGood &= found(fray, scene, source, edits, race.name());
            }
        }
        return isGood ? 0 : 1;
    }

    /// Compiles the tool with these edits and runs the scene. Returns whether a schedule failed.
    private boolean found(Fray fray, String scene, Mutant.Source source, List<Mutant.Edit> edits, String what)
            throws Exception {
        long began = System.nanoTime();
        var folder = Files.createTempDirectory("difyexec-schedules");
        Mutant.Source.compile(Mutant.Edit.apply(edits, source.text), Optional.of(folder));
        var words = new ArrayList<>(fray.java(folder + File.pathSeparator + System.getProperty("java.class.path")));
        words.addAll(List.of("--output", folder.resolve("report").toString(), "--iter", "" + schedules,
                "--timeout", "86400", "--scheduler", "pos", "--memory", "--no-reset-class-loader",
                "--timeline-coverage", "none", "--run-config", "cli", "--clazz", Schedules.class.getName(),
                "--method", scene));
        var log = folder.resolve("log");
        var process = new ProcessBuilder(words).redirectErrorStream(true).redirectOutput(log.toFile()).start();
        int code = process.waitFor();
        var text = Files.readString(log);
        var failure = Pattern.compile("Error found at iter: (\\d+)").matcher(text);
        boolean isFound = failure.find();
        if (code != (isFound ? 1 : 0)) throw new IllegalStateException("Fray failed, see " + log);
        IO.println("%-8s %-45s %s, %.0f s%s".formatted(scene, what, isFound ? "failed in schedule " + failure.group(1)
                        : "never failed in " + schedules + " schedules", (System.nanoTime() - began) / 1e9,
                isFound ? ", see " + log : ""));
        if (!isFound) delete(folder);
        return isFound;
    }

    /// Fray in a folder: its jars, its agent and its JDK.
    record Fray(Path folder) {
        static final String VERSION = "0.9.2";
        private static final List<String> PARTS = List.of("fray:fray-core", "fray:fray-jvmti-linux-x8664",
                "fray.instrumentation:fray-instrumentation-agent", "fray.instrumentation:fray-instrumentation-jdk");
        /// A JDK without jmods is linked of its own image, which cannot contain jdk.jlink.
        private static final String MODULES = "java.se,jdk.httpserver,jdk.unsupported,jdk.compiler,jdk.zipfs,"
                + "jdk.crypto.ec,jdk.management,jdk.attach,jdk.jfr";

        /// Installs Fray unless it is there.
        static Fray in(Path folder) throws IOException, InterruptedException {
            var fray = new Fray(folder);
            if (Files.exists(folder.resolve("ready"))) return fray;
            if (!System.getProperty("os.name").equals("Linux") || !System.getProperty("os.arch").equals("amd64"))
                throw new Unusable("Fray is used on Linux with x86-64 only");
            IO.println("Installing Fray " + VERSION + " into " + folder + ", which takes some minutes");
            if (Files.exists(folder)) delete(folder);
            fray.fetch();
            fray.link();
            Files.createFile(folder.resolve("ready"));
            return fray;
        }

        private void fetch() throws IOException, InterruptedException {
            Files.createDirectories(folder);
            Files.writeString(folder.resolve("pom.xml"), PARTS.stream().map(part -> part.split(":"))
                    .map(part -> "<dependency><groupId>org.pastalab." + part[0] + "</groupId><artifactId>" + part[1]
                            + "</artifactId><version>" + VERSION + "</version></dependency>")
                    .collect(Collectors.joining("\n", """
                            <project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId>
                            <version>1</version><dependencies>
                            """, "</dependencies></project>\n")));
            run("fetch Fray", "mvn", "-q", "-B", "-f", folder.resolve("pom.xml").toString(),
                    "dependency:copy-dependencies", "-DoutputDirectory=" + folder.resolve("lib"));
            try (var jar = new ZipFile(jars("fray-jvmti").getFirst());
                    var agent = jar.getInputStream(jar.getEntry("libjvmti.so"))) {
                Files.copy(agent, folder.resolve("libjvmti.so"));
            }
        }

        private void link() throws IOException, InterruptedException {
            var path = String.join(File.pathSeparator,
                    jars("fray-instrumentation-", "fray-runtime-", "asm", "kotlin-", "annotations"));
            run("make a JDK for Fray", Path.of(System.getProperty("java.home"), "bin", "jlink").toString(),
                    "-J-javaagent:" + jars("fray-instrumentation-jdk").getFirst(), "-J--module-path=" + path,
                    "-J--add-modules=org.pastalab.fray.instrumentation.jdk", "-J--class-path=" + path,
                    "--output=" + folder.resolve("jdk"), "--release-info", "add:IMPLEMENTOR=Fray",
                    "--fray-instrumentation", "--add-modules=" + MODULES);
        }

        private void run(String what, String... words) throws IOException, InterruptedException {
            var log = folder.resolve("log");
            try {
                var process = new ProcessBuilder(words).redirectErrorStream(true).redirectOutput(log.toFile()).start();
                if (process.waitFor() == 0) return;
            } catch (IOException problem) {
                throw new Unusable("cannot " + what + ": " + problem.getMessage());
            }
            throw new Unusable("cannot " + what + ": " + words[0] + " failed, see " + log);
        }

        private List<String> jars(String... beginnings) throws IOException {
            try (var files = Files.list(folder.resolve("lib"))) {
                return files.filter(file -> Stream.of(beginnings).anyMatch(file.getFileName().toString()::startsWith))
                        .map(Path::toString).sorted().toList();
            }
        }

        /// The words that start Fray's main class.
        List<String> java(String classes) throws IOException {
            // each schedule has a folder, for which a disk takes longer than the schedule does
            var memory = Path.of("/dev/shm");
            var files = Files.isWritable(memory) ? memory.toString() : System.getProperty("java.io.tmpdir");
            return List.of(folder.resolve("jdk/bin/java").toString(), "-ea", "-Xmx1g", "-Djava.io.tmpdir=" + files,
                    "--enable-native-access=ALL-UNNAMED", "-agentpath:" + folder.resolve("libjvmti.so"),
                    "-javaagent:" + jars("fray-instrumentation-agent").getFirst(), "-cp",
                    classes + File.pathSeparator + folder.resolve("lib") + "/*", "org.pastalab.fray.core.MainKt");
        }
    }

    // ── Scenes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A batch of two rows, each of which fails for good, so that only the log is written.
    private static Scene scene() {
        return alone(() -> {
            var folder = Files.createTempDirectory("difyexec-scene");
            var scene = Scene.of(folder, "1", "2");
            scene.slots = 2;
            scene.answer = (_, _) -> failed("no such city");
            return scene;
        });
    }

    /// Plays the scene with a real mailbox.
    ///
    /// @param workers starts a worker for each task
    private static Optional<Stop> play(Scene scene, Executor workers) {
        scene.ports = Optional.of(new Engine.Ports(scene, scene, () -> NOON, new LinkedBlockingQueue<>(), workers,
                () -> {
                    throw new AssertionError("the process would be halted");
                }));
        var writer = alone(() -> {
            var opened = scene.open();
            scene.prepare(opened);
            return opened;
        });
        try {
            return scene.engine.run();
        } catch (Exception problem) {
            throw new IllegalStateException(problem);
        } finally {
            close(writer, scene);
        }
    }

    private static void close(BatchWriter writer, Scene scene) {
        alone(() -> {
            writer.close();
            delete(scene.output.getParent());
            return null;
        });
    }

    /// Runs what no other thread takes part in, such as opening a batch, without Fray, which needs some µs for each
    /// access to memory.
    private static <T> T alone(Callable<T> work) {
        try {
            var fray = Class.forName("org.pastalab.fray.runtime.Runtime");
            fray.getMethod("onSkipPrimitive", String.class).invoke(null, "alone");
            try {
                return work.call();
            } finally {
                fray.getMethod("onSkipPrimitiveDone", String.class).invoke(null, "alone");
            }
        } catch (Exception problem) {
            throw new IllegalStateException(problem);
        }
    }

    private static void start(Runnable task) {
        Thread.ofPlatform().start(task);
    }

    private static void delete(Path folder) {
        try (var files = Files.walk(folder)) {
            for (var file : files.sorted(Comparator.reverseOrder()).toList()) Files.delete(file);
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    private static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    /// Two workers post their responses, and the engine takes them out.
    static void mailbox() {
        var scene = scene();

        var stop = play(scene, Schedules::start);

        check(stop.isEmpty() && scene.tally.done() == 2, "both rows have an outcome");
        check(scene.sent.size() == 2, "each row is sent once");
    }

    /// A stream's worker notes the time of an event and posts it; the engine then reads the time.
    static void events() {
        var scene = scene();
        scene.mode = Mode.STREAMING;
        scene.answer = (attempt, listener) -> {
            listener.accept(new StreamEvent.Began(run("run-" + attempt.row().id())));
            return failed("no such city");
        };

        var stop = play(scene, Schedules::start);

        check(stop.isEmpty() && scene.tally.done() == 2, "both rows have an outcome");
    }

    /// The first row's response stops the batch: a worker that starts later sends nothing.
    static void stop() {
        var scene = scene();
        var isStopped = new CountDownLatch(1);
        scene.answer = (attempt, _) -> attempt.row().id().equals("1")
                ? http(401, "unauthorized", "Access token is invalid") : failed("no such city");
        scene.watched = _ -> {
            if (hasRefusal(scene)) isStopped.countDown();
        };

        sendsNothingAfter(scene, () -> isOver(isStopped), () -> {});
    }

    /// Waits, so that the second worker starts after the stop.
    private static boolean isOver(CountDownLatch stopped) {
        try {
            stopped.await();
            return true;
        } catch (InterruptedException problem) {
            throw new IllegalStateException(problem);
        }
    }

    private static boolean hasRefusal(Scene scene) {
        return alone(() -> Files.readString(scene.file(".log")).contains("\"outcome\":\"refused\""));
    }

    /// A signal arrives while rows are sent: a worker that starts later sends nothing.
    static void signal() {
        var scene = scene();
        var isOver = new AtomicBoolean();
        sendsNothingAfter(scene, isOver::get, () -> start(() -> {
            scene.engine.interrupt("INT");
            isOver.set(true);
        }));
    }

    /// @param first runs with the first worker
    private static void sendsNothingAfter(Scene scene, BooleanSupplier isOver, Runnable first) {
        var late = Collections.synchronizedSet(new HashSet<Thread>());
        var answer = scene.answer;
        scene.answer = (attempt, listener) -> {
            check(!late.contains(Thread.currentThread()), "row " + attempt.row().id() + " is sent after the stop");
            return answer.to(attempt, listener);
        };
        var isFirst = new AtomicBoolean(true);
        var stop = play(scene, task -> {
            boolean mustWait = !isFirst.getAndSet(false);
            if (!mustWait) first.run();
            start(() -> {
                if (mustWait && isOver.getAsBoolean()) late.add(Thread.currentThread());
                task.run();
            });
        });
        check(stop.isPresent() || scene.tally.done() == 2, "the batch stops, unless both rows had ended before");
    }

    /// The engine's thread waits for the log, while a second thread writes the results to disk. Each time, a watcher
    /// asks how long that has taken.
    static void commit() {
        var scene = scene();
        var isWrong = new AtomicBoolean();
        var writing = new AtomicReference<BatchWriter>();
        var watchers = Collections.synchronizedList(new ArrayList<Thread>());
        scene.disk = (_, _) -> Optional.ofNullable(writing.get()).ifPresent(busy -> watchers.add(
                Thread.ofPlatform().start(() -> {
                    if (busy.forcingFor().toMinutes() > 0) isWrong.set(true);
                })));
        var writer = alone(scene::open);
        try {
            writing.set(writer);
            writer.record(session(0, "1.16.1"));
            for (var row : List.of("1", "2")) {
                var user = "difyexec-0123456789abcdef-" + row;
                alone(() -> {
                    writer.record(attempt(1, row, user));
                    return null;
                });
                writer.commit(NOON, _ -> {});
                check(writer.isOnDisk(), "the attempt is on disk before it is sent");
                writer.awaitResults();
                alone(() -> {
                    writer.recordSuccess(new ResultLine(outputs("{\"id\":\"" + row
                            + "\",\"status\":\"success\",\"user\":\"" + user + "\",\"seconds\":1.0}")), NOON);
                    return null;
                });
                writer.commit(NOON, _ -> {});
                writer.awaitResults();
                check(alone(writer::isSaved), "the result and its end are on disk");
            }
            for (var watcher : watchers) watcher.join();
            check(!isWrong.get(), "the disk is busy for seconds at most");
        } catch (InterruptedException problem) {
            throw new IllegalStateException(problem);
        } finally {
            close(writer, scene);
        }
    }
}
