///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Runs batches whose faults, times and crashes follow from a seed, and checks the tool's promises.
//SOURCES ../../DifyExec.java
//SOURCES Given.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import difyexec.Given.Scene;
import picocli.CommandLine;
import picocli.CommandLine.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.ABSENT;
import static difyexec.Given.NOON;
import static difyexec.Given.seconds;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs engine, judge, agenda and writer under a virtual clock, against a small model of Dify in the same process and
/// a disk that loses what was not forced when the power fails. A seed decides everything that is left to chance, so a
/// failed schedule can be repeated.
@Command(name = "seeds", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Run one batch per seed in a simulated world. The seed decides faults, delays, limits, stops, "
                + "crashes and restarts. Exit code 1 if a promise was broken.",
        footer = {"", "Repeat a failed seed: benchmarks/seeds --from 17 --seeds 1 --trace"})
final class Seeds implements Callable<Integer> {
    @Option(names = "--seeds", paramLabel = "N", defaultValue = "1000",
            description = "Run N seeds (default: ${DEFAULT-VALUE}).")
    int seeds = 1000;

    @Option(names = "--from", paramLabel = "N", defaultValue = "1",
            description = "Begin with seed N (default: ${DEFAULT-VALUE}).")
    long from = 1;

    @Option(names = "--trace", description = "Print what happened.")
    boolean isTraced;

    static void main(String... args) {
        DifyExec.setProperties();
        System.exit(new CommandLine(new Seeds()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        long began = System.nanoTime(), sessions = 0, requests = 0, crashes = 0;
        var broken = new ArrayList<String>();
        for (long seed = from; seed < from + seeds; seed++) {
            var schedule = new Schedule(seed);
            try {
                schedule.play();
            } catch (AssertionError problem) {
                broken.add(problem.getMessage());
                System.out.println(problem.getMessage());
            }
            if (isTraced) schedule.trace.forEach(System.out::println);
            sessions += schedule.sessions;
            requests += schedule.server.jobs.size();
            crashes += schedule.crashes;
        }
        System.out.printf(Locale.ROOT, "%d seeds, %d sessions, %d crashes, %d runs, %d broken, %.1f s%n", seeds,
                sessions, crashes, requests, broken.size(), (System.nanoTime() - began) / 1e9);
        return broken.isEmpty() ? 0 : 1;
    }

    /// The process is killed, or the power fails.
    private static final class Crash extends Error {
        Crash() {
            super("crash", null, false, false);
        }
    }

    /// One batch from its first session to its last one.
    static final class Schedule {
        private static final int MOST_ROWS = 8;
        private static final Duration TIMEOUT = seconds(60), SETTLE = seconds(10);

        final List<String> trace = new ArrayList<>();
        final long seed;
        final Random random;
        final Server server;
        int sessions = 0, crashes = 0;
        private final String[] ids;
        private Instant now = NOON;
        private Disk disk;

        Schedule(long seed) {
            this.seed = seed;
            random = new Random(seed * 0x9E3779B97F4A7C15L); // the first numbers of neighbouring seeds are alike
            ids = IntStream.range(0, 1 + random.nextInt(MOST_ROWS)).mapToObj(row -> "r" + row).toArray(String[]::new);
            server = new Server(this);
        }

        void play() throws Exception {
            var folder = Files.createTempDirectory(memory(), "seeds-");
            try {
                int troubled = 1 + random.nextInt(4);
                for (int session = 0; session < troubled; session++) troubled(folder);
                // twice: what only appears after a row was sent again is reported by the next start
                calm(folder, false);
                calm(folder, true);
            } catch (AssertionError | RuntimeException problem) {
                Throwable cause = problem;
                while (cause.getCause() != null) cause = cause.getCause(); // of a worker
                throw new AssertionError("seed " + seed + ": " + cause.getMessage()
                        + " (repeat: benchmarks/seeds --from " + seed + " --seeds 1 --trace)", problem);
            } finally {
                try (var files = Files.walk(folder)) {
                    files.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
                }
            }
        }

        /// What the tool forces to disk without asking this disk would take most of the time elsewhere.
        private static Path memory() {
            var shared = Path.of("/dev/shm");
            return Files.isWritable(shared) ? shared : Path.of(System.getProperty("java.io.tmpdir"));
        }

        /// Something goes wrong: the server, the disk, the power, a limit or the user.
        private void troubled(Path folder) throws Exception {
            server.trouble = random.nextInt(10) * 0.1;
            var scene = scene(folder);
            scene.slots = 1 + random.nextInt(4);
            scene.mode = random.nextBoolean() ? Mode.BLOCKING : Mode.STREAMING;
            scene.failedRuns = pick(Judge.RetryRuns.values());
            scene.grace = seconds(random.nextInt(20));
            if (chance(0.15)) scene.maxFailures = new Limits.Ceiling(1 + random.nextInt(3), 0);
            if (chance(0.1)) scene.maxTokens = 10L * (1 + random.nextInt(8));
            if (chance(0.3)) scene.wait = Duration.ofMillis(random.nextInt(3000));
            if (sessions > 1) select(scene);
            if (chance(0.25)) scene.interruptAfter(Duration.ofMillis(random.nextInt(60_000)));
            if (chance(0.1)) scene.interruptAfter(Duration.ofMillis(random.nextInt(60_000)));
            if (chance(0.4)) disk.crashAtForce = 1 + random.nextInt(20);
            else if (chance(0.1)) disk.failAtForce = 1 + random.nextInt(20);
            long crashAtWait = chance(0.4) ? random.nextInt(400) : Long.MAX_VALUE;
            play(scene, crashAtWait);
            now = scene.world.now().plusMillis(random.nextInt(chance(0.5) ? 2_000 : 200_000));
        }

        /// Nothing new goes wrong, so every row gets its outcome.
        private void calm(Path folder, boolean isLast) throws Exception {
            server.trouble = 0;
            now = now.plusSeconds(400);
            var scene = scene(folder);
            scene.slots = 3;
            var stop = play(scene, Long.MAX_VALUE);
            now = scene.world.now();
            check(stop.isEmpty() || stop.get().what().contains("all failed"), () -> "a calm session stopped: " + stop);
            if (isLast) new Check(this, scene).atEnd();
        }

        private Scene scene(Path folder) throws IOException {
            var scene = Scene.of(folder, ids);
            scene.world.startAt(now);
            scene.world.mostWaits = 100_000;
            scene.timeout = TIMEOUT;
            scene.settle = SETTLE;
            scene.backoff = new Backoff(seconds(1), seconds(20), 2, random::nextDouble);
            disk = new Disk(scene, disk);
            scene.disk = disk;
            scene.answer = (attempt, listener) -> {
                check(disk.hasOnDisk(attempt.user()), () -> "a request left before its attempt was on disk");
                return server.run(attempt, listener);
            };
            scene.found = server::look;
            scene.probed = server::probe;
            scene.watched = tally -> check(tally.succeeded() <= disk.results(),
                    () -> "a result was shown before it was on disk");
            server.scene = scene;
            sessions++;
            return scene;
        }

        private void select(Scene scene) {
            switch (random.nextInt(6)) {
                case 0 -> scene.selection = Batch.Selection.LISTED;
                case 1 -> {
                    var named = Stream.of(ids).filter(_ -> chance(0.4)).toList();
                    if (named.isEmpty()) return;
                    server.permit(named);
                    scene.selection = Batch.Selection.named(named, true);
                }
                case 2 -> {
                    server.permit(List.of(ids));
                    scene.resendUnknown = true;
                }
                default -> {} // the same command again
            }
        }

        private Optional<Stop> play(Scene scene, long crashAtWait) throws Exception {
            scene.world.eachWait = () -> {
                if (scene.world.waits() >= crashAtWait) throw new Crash();
            };
            say("session " + sessions + " " + scene.mode + " -c " + scene.slots);
            var stop = Optional.<Stop>empty();
            try {
                stop = scene.play();
                say("end " + stop.map(Stop::what).orElse("").replace(folder(scene), ""));
            } catch (Crash _) {
                crashes++;
                say("crash");
                if (chance(0.7)) disk.losePower(random);
            }
            new Check(this, scene).afterSession(disk);
            scene.world.end();
            return stop;
        }

        private static String folder(Scene scene) {
            return scene.output.getParent() + "/";
        }

        boolean chance(double share) {
            return random.nextDouble() < share;
        }

        @SafeVarargs
        final <T> T pick(T... values) {
            return values[random.nextInt(values.length)];
        }

        void say(String what) {
            var time = server.scene == null ? now : server.scene.world.now();
            trace.add(Duration.between(NOON, time).toMillis() + " " + what);
        }

        static void check(boolean holds, Supplier<String> what) {
            if (!holds) throw new AssertionError(what.get());
        }
    }

    /// Knows which lines of the two files a power cut leaves.
    private static final class Disk implements LineFile.Disk {
        private final Scene scene;
        private final Forced results, log;
        int crashAtForce = 0, failAtForce = 0;
        private int forces = 0;

        /// What is on disk of a file.
        private static final class Forced {
            final StringBuilder text = new StringBuilder();
            volatile int lines = 0, bytes = 0;

            void add(byte[] more) {
                var added = new String(more, UTF_8);
                text.append(added);
                bytes += more.length;
                lines += (int) added.chars().filter(one -> one == '\n').count();
            }
        }

        Disk(Scene scene, Disk before) {
            this.scene = scene;
            results = before == null ? new Forced() : before.results;
            log = before == null ? new Forced() : before.log;
        }

        /// Both files may be forced at a time, on two threads; only the log decides when something happens.
        @Override
        public void force(FileChannel channel, boolean all) throws IOException {
            var first = ByteBuffer.allocate(1);
            channel.read(first, 0);
            boolean isLog = first.get(0) == '{'; // the results begin with a BOM
            boolean isLast = isLog && ++forces == crashAtForce;
            if (isLast && crashAtForce % 2 == 0) throw new Crash();
            if (isLog && forces == failAtForce) throw new IOException("Input/output error");
            var file = isLog ? log : results;
            var more = ByteBuffer.allocate((int) (channel.size() - file.bytes));
            channel.read(more, file.bytes);
            file.add(more.array());
            if (isLast) throw new Crash();
        }

        boolean hasOnDisk(String user) {
            return log.text.indexOf("\"" + user + "\"") >= 0;
        }

        int results() {
            return results.lines;
        }

        boolean hasKept(String text) {
            return text.startsWith(results.text.toString());
        }

        /// A file keeps what was forced, and any part of what was written after that.
        void losePower(Random random) throws IOException {
            losePower(scene.output, results, random);
            losePower(scene.file(".log"), log, random);
        }

        private static void losePower(Path file, Forced forced, Random random) throws IOException {
            if (!Files.exists(file)) return;
            var rest = Files.readString(file).substring(forced.text.length()).lines().toList();
            int kept = random.nextInt(rest.size() + 1);
            var more = new StringBuilder();
            rest.subList(0, kept).forEach(line -> more.append(line).append('\n'));
            boolean isTorn = kept < rest.size() && random.nextBoolean();
            Files.writeString(file, forced.text.toString() + more
                    + (isTorn ? rest.get(kept).substring(0, rest.get(kept).length() / 2) : ""));
            forced.add(more.toString().getBytes(UTF_8));
        }
    }

    /// A run on the server.
    private static final class Job {
        final Attempt attempt;
        final RunRef ref;
        final Instant begins, listed;
        /// How often the user had allowed its row to be paid for once more.
        final int permit;
        /// Begun long after its request was given up.
        final boolean isLate;
        Instant ends;
        RunStatus end;
        String error;

        Job(Attempt attempt, RunRef ref, Instant begins, Instant listed, int permit, boolean isLate) {
            this.attempt = attempt;
            this.ref = ref;
            this.begins = begins;
            this.listed = listed;
            this.permit = permit;
            this.isLate = isLate;
        }

        Response.Ran ran() {
            return new Response.Ran(ref, end, Given.outputs("{\"row\":\"" + attempt.row().id() + "\"}"), error,
                    "workflow-1", new Usage(1, 10, 3, Optional.empty(), ""));
        }

        boolean succeeded() {
            return end == RunStatus.SUCCEEDED;
        }
    }

    /// Dify 1.14 as far as the tool can tell: runs are listed a moment after they begin, and go on when nobody listens.
    private static final class Server {
        private final Schedule schedule;
        final List<Job> jobs = new ArrayList<>();
        /// How often the user has allowed each row to be paid for once more.
        final Map<String, Integer> permits = new HashMap<>();
        Scene scene;
        double trouble = 0;

        Server(Schedule schedule) {
            this.schedule = schedule;
        }

        void permit(List<String> ids) {
            ids.forEach(id -> permits.merge(id, 1, Integer::sum));
        }

        private enum Fault {
            NONE, FAILS, THROTTLED, NOT_SENT, ERROR_BEFORE, ERROR_DURING, LOST, CUT, MADE_UP, CONTRADICTED, DELAYED,
            LATE, SLOW, STOPPED
        }

        Response run(Attempt attempt, Consumer<StreamEvent> listener) throws InterruptedException {
            var fault = schedule.chance(trouble) ? schedule.pick(Fault.values()) : Fault.NONE;
            schedule.say(attempt.row().id() + " " + attempt.user().replaceAll(".*-", "#") + " " + fault);
            pass(schedule.random.nextInt(1500));
            return switch (fault) {
                case NONE, FAILS, STOPPED, SLOW -> toItsEnd(start(attempt, fault, Duration.ZERO), listener);
                case THROTTLED -> Given.THROTTLED;
                case NOT_SENT -> new Response.NotSent("connection refused", "");
                case ERROR_BEFORE -> Given.http(500, "internal_server_error", "The server encountered an error");
                case LOST -> Given.cut(Symptom.NO_ANSWER);
                case DELAYED -> {
                    start(attempt, fault, Duration.ofMillis(schedule.random.nextInt(5_000)));
                    yield Given.cut(Symptom.NO_ANSWER);
                }
                case LATE -> {
                    start(attempt, fault, seconds(20 + schedule.random.nextInt(200)));
                    yield Given.cut(Symptom.NO_ANSWER);
                }
                case ERROR_DURING, CUT, MADE_UP, CONTRADICTED ->
                        brokenOff(start(attempt, fault, Duration.ZERO), fault, listener);
            };
        }

        private Job start(Attempt attempt, Fault fault, Duration delay) {
            var begins = scene.world.now().plus(delay);
            // a stream's first event follows once its run is stored
            var listed = attempt.mode() == Mode.STREAMING ? begins : begins.plusMillis(schedule.random.nextInt(2_000));
            var job = new Job(attempt, Given.run("run-" + jobs.size()), begins, listed,
                    permits.getOrDefault(attempt.row().id(), 0), fault == Fault.LATE);
            int most = fault == Fault.SLOW ? 200_000 : 20_000;
            job.ends = begins.plusMillis(500 + schedule.random.nextInt(most));
            if (job.ends.isBefore(listed)) job.ends = listed;
            job.end = fault == Fault.STOPPED ? RunStatus.STOPPED : RunStatus.SUCCEEDED;
            job.error = "";
            if (fault == Fault.FAILS || fault != Fault.NONE && schedule.chance(0.2)) {
                job.end = RunStatus.FAILED;
                job.error = schedule.pick("Rate Limit Error", "the node Code failed");
            }
            jobs.add(job);
            scene.alarms.put(job.ref.task(), () -> stop(job));
            return job;
        }

        private void began(Job job, Consumer<StreamEvent> listener) {
            if (job.attempt.mode() != Mode.STREAMING) return;
            listener.accept(new StreamEvent.Began(job.ref));
            if (schedule.chance(trouble / 4)) listener.accept(new StreamEvent.Began(job.ref)); // doubled
        }

        private Response toItsEnd(Job job, Consumer<StreamEvent> listener) throws InterruptedException {
            began(job, listener);
            var timeout = scene.world.now().plus(Schedule.TIMEOUT);
            while (scene.world.now().isBefore(job.ends)) {
                if (!scene.world.now().isBefore(timeout)) return cut(job, Symptom.TIMED_OUT);
                pass(Math.min(1000, 1 + Duration.between(scene.world.now(), job.ends).toMillis()));
            }
            return job.ran();
        }

        private Response brokenOff(Job job, Fault fault, Consumer<StreamEvent> listener) throws InterruptedException {
            began(job, listener);
            pass(schedule.random.nextInt(3_000));
            var shown = fault == Fault.MADE_UP && job.attempt.mode() == Mode.BLOCKING ? Fault.CUT : fault;
            return switch (shown) {
                case ERROR_DURING -> Given.http(500, "internal_server_error", "The server encountered an error");
                case MADE_UP -> new Response.Ran(job.ref, RunStatus.FAILED, Given.outputs("{}"), "connection error", "",
                        Usage.NONE);
                case CONTRADICTED -> cut(job, Symptom.CONTRADICTED);
                default -> cut(job, Symptom.CUT);
            };
        }

        private static Response cut(Job job, Symptom symptom) {
            return job.attempt.mode() == Mode.STREAMING ? Given.cut(symptom, job.ref) : Given.cut(symptom);
        }

        private void pass(long millis) throws InterruptedException {
            scene.world.pass(Duration.ofMillis(millis));
        }

        LookUpResult look(Unresolved unresolved) {
            scene.wait(Duration.ofMillis(schedule.random.nextInt(800)));
            if (schedule.chance(trouble / 2)) return new LookUpResult.Silent(schedule.pick(
                    Given.http(500, "internal_server_error", "no"), Given.cut(Symptom.NO_ANSWER), Given.html(502)));
            var user = unresolved.attempt().user();
            var now = scene.world.now();
            var found = jobs.stream().filter(job -> job.attempt.user().equals(user))
                    .filter(job -> !job.listed.isAfter(now)).findFirst();
            if (unresolved.stopsFirst()) found.ifPresent(this::stop);
            var result = found.map(job -> seen(job, now)).orElse(ABSENT);
            schedule.say("look " + unresolved.attempt().row().id() + " " + unresolved.purpose() + " "
                    + user.replaceAll(".*-", "#") + " " + result.word());
            return result;
        }

        private static LookUpResult seen(Job job, Instant now) {
            if (now.isBefore(job.ends)) return new LookUpResult.Running(new RunRef(job.ref.id(), ""),
                    RunStatus.RUNNING, Optional.of(Duration.between(job.begins, now)), Duration.ZERO);
            return new LookUpResult.Ended(job.ran(), job.attempt.row().inputs());
        }

        private void stop(Job job) {
            var now = scene.world.now();
            if (!now.isBefore(job.ends) || schedule.chance(trouble / 4)) return;
            job.ends = now;
            job.end = schedule.pick(RunStatus.STOPPED, RunStatus.FAILED);
            job.error = "Aborted: User requested stop";
        }

        Optional<Response> probe() {
            return schedule.chance(trouble / 2) ? Optional.of(new Response.NotSent("connection refused", ""))
                    : Optional.empty();
        }
    }

    /// What must hold, whatever happened.
    private record Check(Schedule schedule, Scene scene) {
        void afterSession(Disk disk) throws IOException {
            int places = scene.mode == Mode.STREAMING ? 2 * scene.slots : scene.slots; // silent streams hold none
            Schedule.check(scene.busiest <= places, () -> scene.busiest + " requests at a time with -c " + scene.slots);
            // the progress is drawn five times a second, and each message may need a few waits
            long messages = 4L * scene.sent.size() + 2L * scene.looked.size() + 2L * scene.probes.size();
            long most = 100 + 6 * scene.world.passed().toSeconds() + 10 * messages;
            Schedule.check(scene.world.waits() <= most, () -> scene.world.waits() + " waits in "
                    + scene.world.passed() + " with " + messages + " messages");
            if (Files.exists(scene.output)) Schedule.check(disk.hasKept(Files.readString(scene.output)),
                    () -> "a result on disk has changed");
        }

        /// After sessions in which nothing went wrong.
        void atEnd() throws IOException {
            var withResult = new HashSet<String>();
            var runs = new HashSet<String>();
            for (var result : Files.exists(scene.output) ? scene.results() : List.<JsonNode>of()) {
                var run = result.path("workflow_run_id").asText();
                var id = result.path("id").asText();
                withResult.add(id);
                Schedule.check(runs.add(run), () -> "two results of " + run);
                Schedule.check(paid(id).anyMatch(job -> job.ref.id().equals(run)),
                        () -> "row " + id + " has a wrong result: " + run);
            }
            var ends = new HashMap<String, String>();
            for (var end : scene.log("end")) ends.put(end.path("id").asText(), end.path("outcome").asText());
            var late = Set.copyOf(Scene.texts("user", scene.log("late")));
            for (var id : schedule.ids) paid(id).filter(job -> job.isLate && !late.contains(job.attempt.user()))
                    .filter(this::isPaidAgain).findFirst().ifPresent(job -> Schedule.check(false,
                            () -> "row " + id + ": " + job.ref.id() + " is not reported as late"));
            for (var id : schedule.ids) row(id, withResult.contains(id) ? "success" : ends.getOrDefault(id, ""));
        }

        private Stream<Job> paid(String id) {
            return schedule.server.jobs.stream().filter(job -> job.attempt.row().id().equals(id) && job.succeeded());
        }

        /// Whether a later request of the row was paid for, too, without being asked for.
        private boolean isPaidAgain(Job late) {
            var jobs = schedule.server.jobs;
            return paid(late.attempt.row().id()).anyMatch(job -> job.permit == late.permit
                    && jobs.indexOf(job) > jobs.indexOf(late));
        }

        private void row(String id, String outcome) {
            var times = paid(id).filter(job -> !job.isLate)
                    .collect(Collectors.groupingBy(job -> job.permit, Collectors.counting()));
            Schedule.check(times.values().stream().allMatch(count -> count == 1), () -> "row " + id
                    + " was paid twice: " + paid(id).map(job -> job.ref.id()).toList());
            Schedule.check(List.of("success", "failed", "unknown").contains(outcome),
                    () -> "row " + id + " has no outcome: " + outcome);
            Schedule.check(!outcome.equals("failed") || paid(id).allMatch(job -> job.isLate),
                    () -> "row " + id + " counts as failed, but its run has succeeded");
        }
    }
}
