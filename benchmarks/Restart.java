///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Restarts a simulated Dify during a batch and prints the concurrency limit over time.
//SOURCES ../DifyExec.java
//SOURCES ../tests/support/Simulator.java
//SOURCES ../tests/support/Given.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.seconds;

/// Runs one batch for each mode and each kind of restart, in real time. The engine, the client and the files are the
/// tool's own; only the server is simulated.
@Command(name = "restart", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Restart a simulated Dify during a batch and print the concurrency limit over time. Exit code 1 "
                + "if, after the restart, the surviving rows take more than 1.5 times the ideal time, or the limit is "
                + "below 2 for more than 5 s. If connections are reset meanwhile: if more rows than run at a time are "
                + "in doubt, or the others take more than 1.6 times the ideal time and --settle.",
        footer = {"", "Example: benchmarks/restart --dify 1.16.0"})
final class Restart implements Callable<Integer> {
    /// A worker that has just started needs this long before its first run.
    private static final Duration WARM_UP = Duration.ofSeconds(2);
    private static final Duration BEFORE = Duration.ofSeconds(6), RUN = Duration.ofSeconds(2);
    private static final Duration LONGEST_LOW = Duration.ofSeconds(5), SETTLE = Duration.ofSeconds(30);

    @Option(names = "--rows", paramLabel = "N", defaultValue = "60",
            description = "Run N rows in each batch (default: ${DEFAULT-VALUE}).")
    int rows;

    @Option(names = {"-c", "--concurrency"}, paramLabel = "N", defaultValue = "6",
            description = "Run N rows at a time (default: ${DEFAULT-VALUE}).")
    int places;

    @Option(names = "--away", paramLabel = "SEC", defaultValue = "20",
            description = "Keep the server down for SEC seconds (default: ${DEFAULT-VALUE}).")
    int away;

    @Option(names = "--timeout", paramLabel = "SEC", defaultValue = "300",
            description = "Run the tool with TIMEOUT=SEC, its wait for dead runs (default: ${DEFAULT-VALUE}).")
    int timeout;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.14.2",
            description = "Simulate Dify " + SimulatedRun.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    String version;

    @Option(names = "--every", paramLabel = "SEC", defaultValue = "5",
            description = "Print a column for every SEC seconds (default: ${DEFAULT-VALUE}).")
    int every;

    @Spec CommandSpec spec;

    /// `ALL_RESET`: API and worker are killed, and connections are accepted and reset until they are back.
    enum Kind { WORKER_KILLED, ALL_KILLED, ALL_RESET, GRACEFUL }

    /// @param places  the concurrency limit
    /// @param running requests in flight
    record Sample(Instant at, int places, int running, long done) {}

    /// @param back  when the server was back
    /// @param dead  rows whose runs died with the server
    /// @param doubt rows that were looked up
    /// @param rest  rows that succeeded after the restart
    /// @param took  from the restart to the last success
    /// @param ideal time for the rest with the places that dead runs leave free
    record Course(Kind kind, Mode mode, List<Sample> samples, Instant back, int dead, int doubt, int rest, Duration took,
                  Duration ideal) {
        boolean isGood(int places) {
            if (kind == Kind.ALL_RESET) return doubt <= places
                    && took.compareTo(ideal.multipliedBy(8).dividedBy(5).plus(SETTLE)) <= 0;
            return took.compareTo(ideal.multipliedBy(3).dividedBy(2)) <= 0 && longestLow().compareTo(LONGEST_LOW) <= 0;
        }

        /// The longest time with fewer than two places.
        private Duration longestLow() {
            var longest = Duration.ZERO;
            Instant since = null;
            for (var sample : samples) {
                if (sample.places() >= 2 || sample.at().isBefore(back)) since = null;
                else if (since == null) since = sample.at();
                else longest = Collections.max(List.of(longest, Duration.between(since, sample.at())));
            }
            return longest;
        }

        /// `6 (4)`, or an empty cell after the last success.
        String at(Duration time) {
            var moment = back.plus(time);
            if (time.compareTo(took) > 0) return "";
            return samples.stream().filter(sample -> !sample.at().isBefore(moment)).findFirst()
                    .map(sample -> sample.places() + " (" + sample.running() + ")").orElse("");
        }
    }

    static void main(String... args) {
        System.exit(new CommandLine(new Restart()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var courses = new ArrayList<Course>();
        try (var pool = Executors.newCachedThreadPool()) {
            var running = new ArrayList<Future<Course>>();
            for (var mode : List.of(Mode.STREAMING, Mode.BLOCKING))
                for (var kind : Kind.values()) running.add(pool.submit(() -> course(kind, mode)));
            for (var each : running) courses.add(each.get());
        }
        print(courses);
        return courses.stream().allMatch(course -> course.isGood(places)) ? 0 : 1;
    }

    private Course course(Kind kind, Mode mode) throws Exception {
        var scene = Given.Scene.of(Files.createTempDirectory("restart-"),
                IntStream.rangeClosed(1, rows).mapToObj(String::valueOf).toArray(String[]::new));
        scene.slots = places;
        scene.mode = mode;
        scene.server = version;
        scene.timeout = seconds(timeout);
        scene.inRealTime = true;
        var samples = new ArrayList<Sample>();
        try (var server = new Server(version)) {
            var access = new Access(server.address(), "app-test", "", "", Optional.empty(), Optional.empty());
            try (var client = DifyClient.of(access, seconds(timeout), places)) {
                scene.workflow = new Sender(client, Form.ofText(), Optional.empty(), List.of());
                scene.watched = tally -> samples.add(new Sample(Instant.now(), scene.pace.slots(),
                        tally.activity().running(), tally.done()));
                var restarting = Thread.ofVirtual().start(() -> {
                    try {
                        Thread.sleep(BEFORE);
                        server.restart(kind, seconds(away));
                    } catch (IOException | InterruptedException problem) {
                        throw new IllegalStateException(problem);
                    }
                });
                scene.play();
                restarting.join();
            }
            return course(kind, mode, scene, server.back, samples);
        }
    }

    private Course course(Kind kind, Mode mode, Given.Scene scene, Instant back, List<Sample> samples)
            throws IOException {
        int dead = (int) scene.tally.count(RowStatus.UNKNOWN);
        var looked = new HashSet<>(Given.Scene.texts("user", scene.log("look")));
        var doubt = scene.log("attempt").stream().filter(attempt -> looked.contains(attempt.path("user").asText()))
                .map(attempt -> attempt.path("id").asText()).collect(Collectors.toSet());
        var ends = new ArrayList<Instant>();
        for (var id : scene.resultIds()) if (scene.end(id).isAfter(back)
                && !(kind == Kind.ALL_RESET && doubt.contains(id))) ends.add(scene.end(id));
        int free = kind == Kind.ALL_RESET ? places : Math.max(places - dead, (places + 1) / 2);
        var ideal = RUN.multipliedBy(ends.size()).dividedBy(free);
        var took = ends.isEmpty() ? Duration.ZERO : Duration.between(back, Collections.max(ends));
        return new Course(kind, mode, samples, back, dead, doubt.size(), ends.size(), took, ideal);
    }

    /// A simulated Dify that can be killed and restarted at the same address.
    private static final class Server implements AutoCloseable {
        private final SimulatedDify dify;
        private SimulatedServer http;
        volatile Instant back;

        Server(String version) throws IOException {
            this.dify = SimulatedDify.of("--dify", version, "--latency", "1s", "--jitter", "2s", "--columns", "id");
            this.http = SimulatedServer.start(0, 0, dify);
        }

        URI address() {
            return http.baseUrl();
        }

        void restart(Kind kind, Duration away) throws IOException, InterruptedException {
            int port = address().getPort();
            back = Instant.now().plus(away);
            switch (kind) {
                case WORKER_KILLED -> {
                    dify.workerReadyAt(back);
                    dify.killWorker();
                    return;
                }
                case ALL_KILLED -> {
                    http.close();
                    dify.kill();
                }
                case ALL_RESET -> {
                    http.close();
                    dify.kill();
                    dify.workerReadyAt(back.plus(WARM_UP));
                    resetUntilBack(port);
                    http = SimulatedServer.start(port, 0, dify);
                    return;
                }
                case GRACEFUL -> http.leave();
            }
            dify.workerReadyAt(back.plus(WARM_UP));
            Thread.sleep(away);
            http = SimulatedServer.start(port, 0, dify);
        }

        /// A proxy in front of a server that is away: it accepts connections and resets them.
        private void resetUntilBack(int port) throws IOException {
            try (var door = new ServerSocket(port)) {
                while (Instant.now().isBefore(back)) {
                    door.setSoTimeout((int) Math.max(1, Duration.between(Instant.now(), back).toMillis()));
                    try (var caller = door.accept()) {
                        caller.setSoLinger(true, 0);
                    } catch (SocketTimeoutException _) {
                        // nobody called
                    }
                }
            }
        }

        @Override
        public void close() throws IOException {
            http.close();
        }
    }

    private void print(List<Course> courses) {
        var out = spec.commandLine().getOut();
        var times = IntStream.range(-1, 10).mapToObj(at -> seconds((long) at * every)).toList();
        out.println("| Dify " + version + ", -c " + places + ", " + rows + " rows, down for "
                + away + " s: limit (running) at | " + times.stream().map(time -> time.toSeconds() + " s")
                        .collect(Collectors.joining(" | ")) + " | dead | in doubt | rest | took | ideal | |");
        out.println("|---|" + "--:|".repeat(times.size() + 5) + "---|");
        for (var course : courses) {
            var cells = times.stream().map(course::at).collect(Collectors.joining(" | "));
            out.printf(Locale.ROOT, "| %s, %s | %s | %d | %d | %d | %.1f s | %.1f s | %s |%n", course.mode(),
                    course.kind().name().toLowerCase(Locale.ROOT).replace('_', ' '), cells, course.dead(),
                    course.doubt(), course.rest(), course.took().toMillis() / 1000.0, course.ideal().toMillis() / 1000.0,
                    course.isGood(places) ? "ok" : "not ok");
        }
        out.flush();
    }
}
