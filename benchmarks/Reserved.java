///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Kills the tool while its jobs are reserved by a busy worker, or wait at a full door.
//SOURCES Chaos.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs a batch once for each moment of a kill, with all times divided by one factor: the tool's defaults, the server's
/// limits, and what they stand for here. The next session starts at once, the last one after what would be 20 minutes.
///
/// - `workers`: two Celery workers with a slot each. Another caller's run occupies one of them, which reserves a job of
///   ours and starts it when that run ends.
/// - `door`: runs of other callers take all connections of the server for longer than `TIMEOUT` and `--settle`. Our
///   requests and look-ups wait, run even if the tool is gone, and are recorded a moment after they were accepted.
@Command(name = "reserved", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Kill the tool at different moments, while a busy worker has reserved its jobs, or while its "
                + "requests wait at a full server. Exit code 1 if a row is lost, wrong, paid for twice or still open "
                + "after what would be 20 minutes, or if an attempt counts as not started although its run exists.",
        footer = {"", "Example: benchmarks/reserved --scene workers --settle 1.5"})
final class Reserved implements Callable<Integer> {
    private static final Duration TIMEOUT = Duration.ofSeconds(300), SILENCE = Duration.ofSeconds(300);
    /// The longest run that Dify allows, and so the longest time that a job stays reserved.
    private static final Duration LONGEST_RUN = Duration.ofMinutes(20);
    private static final Duration SETTLE_BLOCKING = Duration.ofSeconds(30);
    /// A batch takes about this long if nothing is in its way.
    private static final Duration BATCH = Duration.ofSeconds(4);
    private static final int CONCURRENCY = 4, PLACES = 10;

    /// What is in the way of a row, and how the tool runs.
    enum Scene {
        WORKERS("streaming", "--workers", "2", "--slots", "1"),
        DOOR("blocking", "--places", "" + PLACES, "--start", "0..1.4s");

        final String mode;
        private final List<String> options;

        Scene(String mode, String... options) {
            this.mode = mode;
            this.options = List.of(options);
        }
    }

    @Option(names = "--scene", paramLabel = "NAME", split = ",", defaultValue = "WORKERS,DOOR",
            description = "Play workers, door, or both (default: both).")
    List<Scene> scenes;

    @Option(names = "--moments", paramLabel = "N", defaultValue = "20",
            description = "Kill at N moments of each scene (default: ${DEFAULT-VALUE}).")
    int moments;

    @Option(names = "--factor", paramLabel = "N", defaultValue = "20",
            description = "Divide all times by N (default: ${DEFAULT-VALUE}).")
    int factor;

    @Option(names = "--settle", paramLabel = "SEC",
            description = "Run the tool with --settle SEC (default: 20 minutes for workers, 30 s for the door, both "
                    + "divided by the factor).")
    Double settle;

    @Option(names = "--rows", paramLabel = "N", defaultValue = "12",
            description = "Write a CSV with N rows (default: ${DEFAULT-VALUE}).")
    int rows;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1",
            description = "Seed for the moments and the server (default: ${DEFAULT-VALUE}).")
    long seed;

    @Option(names = "--at-once", paramLabel = "N", defaultValue = "10",
            description = "Play N batches at a time; most of them wait (default: ${DEFAULT-VALUE}).")
    int atOnce;

    @Option(names = "--folder", paramLabel = "DIR",
            description = "Keep all files in DIR (default: a temporary folder, kept only if something is wrong).")
    Path folder;

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(new CommandLine(new Reserved()).setCaseInsensitiveEnumValuesAllowed(true).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        boolean isKept = folder != null;
        if (!isKept) folder = Files.createTempDirectory("reserved-");
        Files.createDirectories(folder);
        new Chaos.Tool(folder, List.of(), URI.create("http://none/v1"), "1", "1").archiveClasses();
        var out = spec.commandLine().getOut();
        out.println("| scene | killed after s | next: exit | succeeded | unknown | pending | last: exit | succeeded "
                + "| unknown | pending | lost | wrong | paid twice | late | misjudged | |");
        out.println("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|");
        var played = new ArrayList<Future<Played>>();
        int bad = 0;
        try (var pool = Executors.newFixedThreadPool(atOnce)) {
            for (var scene : scenes) for (int moment = 0; moment < moments; moment++) {
                int number = moment;
                played.add(pool.submit(() -> play(scene, number)));
            }
            for (var each : played) {
                if (!each.get().isGood()) bad++;
                out.println(each.get().line());
                out.flush();
            }
        }
        out.println(played.size() + " batches, " + bad + " bad");
        if (bad == 0 && !isKept) Chaos.Tool.delete(folder);
        else out.println("files: " + folder);
        out.flush();
        return bad == 0 ? 0 : 1;
    }

    private Duration scaled(Duration time) {
        return time.dividedBy(factor);
    }

    private static String seconds(Duration time) {
        return String.valueOf(time.toMillis() / 1e3);
    }

    /// @param next      the counts after the session that followed the kill
    /// @param misjudged attempts that count as not started although their runs exist
    record Played(Scene scene, Duration killedAfter, int nextExit, JsonNode next, int lastExit, JsonNode last,
                  Chaos.Verdict verdict, long misjudged) {
        boolean isGood() {
            return verdict.isGood() && verdict.missing().isEmpty() && lastExit == Exit.OK.code && misjudged == 0;
        }

        String line() {
            return "| " + Stream.of(scene.name().toLowerCase(Locale.ROOT), seconds(killedAfter), nextExit,
                    counts(next), lastExit, counts(last), verdict.lost().size(), verdict.wrong().size(),
                    verdict.paidTwice().size(), verdict.late(), misjudged, isGood() ? "ok" : "not ok " + verdict.missing())
                    .map(String::valueOf).collect(Collectors.joining(" | ")) + " |";
        }

        private static String counts(JsonNode status) {
            return Stream.of("succeeded", "unknown", "pending").map(name -> status.path(name).asText())
                    .collect(Collectors.joining(" | "));
        }
    }

    private Played play(Scene scene, int moment) throws Exception {
        var own = Files.createDirectories(folder.resolve(scene.name().toLowerCase(Locale.ROOT) + moment));
        var archive = folder.resolve("classes.jsa"); // Java makes none of classes in folders
        if (Files.exists(archive)) Files.copy(archive, own.resolve("classes.jsa"), StandardCopyOption.REPLACE_EXISTING);
        var table = Chaos.Table.write(own.resolve("data.csv"), rows, seed + moment, "workflow");
        var dify = SimulatedDify.of(Stream.concat(scene.options.stream(), Stream.of("--dify", "1.16.1", "--seed",
                "" + (seed + moment), "--latency", "300ms", "--jitter", "400ms", "--silence",
                seconds(scaled(SILENCE)))).toArray(String[]::new));
        try (var server = SimulatedServer.start(0, scene == Scene.DOOR ? PLACES : 0, dify);
                var others = new Others(server, dify, scene)) {
            var tool = new Chaos.Tool(own, arguments(scene), server.baseUrl(), seconds(scaled(TIMEOUT)), "3");
            var killedAfter = kill(tool, own, others, moment);
            var killed = System.nanoTime();
            if (scene == Scene.WORKERS) others.leave(scaled(LONGEST_RUN.multipliedBy(5).dividedBy(6)));
            int nextExit = run(tool);
            var next = Chaos.Tool.status(own);
            // the next session of a user who comes back after 20 minutes
            var rest = scaled(LONGEST_RUN).plusSeconds(2).minusNanos(System.nanoTime() - killed);
            if (rest.isPositive()) Thread.sleep(rest);
            int lastExit = run(tool);
            for (var end = System.nanoTime() + 60_000_000_000L; isRunning(dify) && System.nanoTime() < end; )
                Thread.sleep(100); // reserved jobs still run
            var stats = Chaos.JSON.<JsonNode>valueToTree(dify.ledger().stats(true));
            Files.writeString(own.resolve("stats.json"), stats.toPrettyString());
            var users = dify.ledger().all().map(job -> job.user).collect(Collectors.toSet());
            long misjudged = Chaos.Jsonl.read(own.resolve("results.jsonl.log")).lines().stream()
                    .filter(event -> event.path("outcome").asText().equals("not_started"))
                    .filter(event -> users.contains(event.path("user").asText())).count();
            return new Played(scene, killedAfter, nextExit, next, lastExit, Chaos.Tool.status(own),
                    Chaos.Verdict.of(own, table, stats, lastExit), misjudged);
        }
    }

    private static boolean isRunning(SimulatedDify dify) {
        var states = (Map<?, ?>) dify.ledger().stats(false).get("states");
        return states.containsKey("running") || states.containsKey("queued");
    }

    private List<String> arguments(Scene scene) {
        var ofScene = scaled(scene == Scene.DOOR ? SETTLE_BLOCKING : LONGEST_RUN);
        return List.of("run", "-i", "data.csv", "-o", "results.jsonl", "--mode", scene.mode, "-c", "" + CONCURRENCY,
                "--settle", settle == null ? seconds(ofScene) : "" + settle, "--progress", "off");
    }

    /// Kills the tool at one of the moments, which are spread over the batch, or over the time at the door. Returns how
    /// long after its first request the kill came, or zero if the batch had ended.
    private Duration kill(Chaos.Tool tool, Path own, Others others, int moment) throws Exception {
        var log = new Chaos.Lines(own.resolve("results.jsonl.log"));
        try (var process = tool.start()) {
            process.runsUntil(120_000, () -> log.count() > 1); // after the session's event
            long start = System.nanoTime();
            var crowded = others.scene == Scene.DOOR ? Duration.ZERO : part(BATCH, moment);
            process.runsUntil(crowded.toMillis(), () -> false);
            others.come();
            process.runsUntil(30_000, others::areInTheWay);
            if (others.scene == Scene.DOOR) others.leave(atTheDoor());
            var more = others.scene == Scene.DOOR ? part(atTheDoor().plus(BATCH.multipliedBy(2)), moment)
                    : Duration.ofMillis(new SplittableRandom(seed + moment).nextInt(1000));
            if (!process.runsUntil(more.toMillis(), () -> false)) return Duration.ZERO;
            process.kill();
            return Duration.ofNanos(System.nanoTime() - start);
        }
    }

    private Duration part(Duration whole, int moment) {
        return whole.multipliedBy(moment).dividedBy(moments);
    }

    /// How long requests wait there, so that those that were given up still wait when they are looked up.
    private Duration atTheDoor() {
        return scaled(TIMEOUT).plus(scaled(SETTLE_BLOCKING).multipliedBy(5));
    }

    private static int run(Chaos.Tool tool) throws IOException, InterruptedException {
        try (var process = tool.start()) {
            return process.join();
        }
    }

    /// Runs of other callers, which take until they leave.
    private final class Others implements AutoCloseable {
        private final SimulatedServer server;
        private final SimulatedDify dify;
        private final Scene scene;

        Others(SimulatedServer server, SimulatedDify dify, Scene scene) {
            this.server = server;
            this.dify = dify;
            this.scene = scene;
        }

        /// Occupies a worker, or each connection that becomes free.
        void come() {
            for (int place = 0; place < (scene == Scene.DOOR ? PLACES : 1); place++) {
                var id = "other-" + place;
                Thread.startVirtualThread(() -> run(id));
            }
        }

        /// Returns whether they occupy what they can, and requests wait behind them.
        boolean areInTheWay() {
            long running = runs().filter(job -> job.began.isDone()).count();
            return scene == Scene.WORKERS ? running == 1 : running == PLACES && server.waiting() > 0;
        }

        private Stream<SimulatedJob> runs() {
            return dify.ledger().all().filter(job -> job.user.startsWith("other-"));
        }

        private void run(String id) {
            var inputs = Map.of("id", id, "text", "[latency 60m]");
            var body = Json.bytes(Map.of("user", id, "response_mode", scene.mode, "inputs", inputs));
            var head = "POST /v1/workflows/run HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-other\r\n"
                    + "Content-Type: application/json\r\nConnection: close\r\nContent-Length: " + body.length
                    + "\r\n\r\n";
            try (var socket = new Socket(server.baseUrl().getHost(), server.baseUrl().getPort())) {
                socket.getOutputStream().write(head.getBytes(UTF_8));
                socket.getOutputStream().write(body);
                socket.getInputStream().transferTo(OutputStream.nullOutputStream());
            } catch (IOException _) {
                // the server has ended
            }
        }

        /// Leaves after this time.
        void leave(Duration after) {
            Thread.startVirtualThread(() -> {
                LockSupport.parkNanos(after.toNanos());
                runs().forEach(SimulatedJob::finish);
            });
        }

        @Override
        public void close() {
            dify.finishRuns();
        }
    }
}
