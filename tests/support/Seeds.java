///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Runs batches whose faults, times and crashes follow from a seed, and checks the tool's promises.
//SOURCES ../../DifyExec.java
//SOURCES Given.java
//SOURCES SessionBound.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
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

    @Option(names = "--first", description = "Stop at the first broken promise.")
    boolean isFirst;

    @Option(names = "--messages", description = "Play all seeds with chat, agent and completion apps of 1.16.1.")
    boolean isOfMessages;

    @Option(names = "--gateways", description = "Play all seeds behind a gateway that buffers whole responses: 30 rows, "
            + "all kinds of apps, both modes, one or two workers with reserved jobs; the tool is killed five times.")
    boolean isOfGateways;

    @Option(names = "--trace", description = "Print what happened.")
    boolean isTraced;

    static void main(String... args) {
        DifyExec.setProperties();
        System.exit(new CommandLine(new Seeds()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        long began = System.nanoTime(), sessions = 0, requests = 0, crashes = 0;
        double longest = 0;
        var broken = new ArrayList<String>();
        long seed = from;
        for (; seed < from + seeds && !(isFirst && !broken.isEmpty()); seed++) {
            var schedule = isOfGateways ? Schedule.ofGateways(seed) : isOfMessages ? Schedule.ofMessages(seed)
                    : new Schedule(seed);
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
            longest = Math.max(longest, schedule.longest);
        }
        System.out.printf(Locale.ROOT, "%d seeds, %d sessions, %d crashes, %d runs, %d broken, longest session %.0f %% "
                        + "of its bound, %.1f s%n",
                seed - from, sessions, crashes, requests, broken.size(), 100 * longest,
                (System.nanoTime() - began) / 1e9);
        return broken.isEmpty() ? 0 : 1;
    }

    private static void check(boolean holds, Supplier<String> what) {
        if (!holds) throw new AssertionError(what.get());
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
        private static final Duration TIMEOUT = seconds(60), SETTLE = seconds(10), LONGEST_DELAY = seconds(20);
        private static final int RETRIES = 2;
        private static final int KILLS = 5, ROWS_OF_GATEWAYS = 30;

        final List<String> trace = new ArrayList<>();
        final long seed;
        final Random random;
        /// Decides what only a part of the seeds has, so that all others stay what they were.
        final Random more;
        final boolean isWide;
        /// Decides whether outputs are required, and which runs lack them.
        final Random outputs;
        final boolean hasRequirement;
        /// What is between the tool and the server, and what the server may show: drawn apart, too.
        final Random world;
        Optional<Gateway> gateway;
        final boolean isTorn, isPriced;
        /// What the server is now: an upgrade can come between two sessions.
        Kind kind;
        final Server server;
        final String[] ids;
        int sessions = 0, crashes = 0;
        /// The part of its bound that the longest session has taken.
        double longest = 0;
        private final int[] versions;
        private Instant now = NOON;
        private Disk disk;
        /// The batch, or one of its shards, and what is on disk of each.
        private String output = "results.jsonl";
        private final Map<String, Disk> disks = new HashMap<>();
        /// The ids of the CSV, in its order.
        private final List<String> rows;
        /// The shell's edits, by id, which end with its process.
        private final Map<String, String> edits = new HashMap<>();
        /// The user of each row's request that had edits and was in flight when its process was killed, by id.
        final Map<String, String> lostEdits = new HashMap<>();

        Schedule(long seed) {
            this(seed, 0);
        }

        /// A schedule with an app without a workflow. Everything else is drawn as in the schedule of the seed.
        static Schedule ofMessages(long seed) {
            var schedule = new Schedule(seed);
            schedule.kind = Kind.OF_MESSAGES.get((int) (seed % Kind.OF_MESSAGES.size()));
            return schedule;
        }

        /// A schedule behind a gateway, in which nothing else goes wrong but that the tool is killed.
        static Schedule ofGateways(long seed) {
            var schedule = new Schedule(seed, ROWS_OF_GATEWAYS);
            schedule.gateway = Optional.of(Gateway.any(schedule.world, 1));
            // every second one streams through workers
            schedule.kind = seed % 2 == 0 ? Kind.OF_RUNS.get((int) (seed / 2 % 2))
                    : Kind.values()[(int) (seed / 2 % Kind.values().length)];
            return schedule;
        }

        /// @param most the number of rows, or 0 for a random one
        private Schedule(long seed, int most) {
            this.seed = seed;
            random = new Random(seed * 0x9E3779B97F4A7C15L); // the first numbers of neighbouring seeds are alike
            more = new Random(seed * 0xC2B2AE3D27D4EB4FL);
            isWide = more.nextBoolean();
            outputs = new Random(seed * 0xD6E8FEB86659FD93L);
            hasRequirement = outputs.nextInt(4) == 0;
            kind = isWide ? Kind.OF_RUNS.get(more.nextInt(Kind.OF_RUNS.size())) : Kind.WORKFLOW;
            int count = most > 0 ? most : 1 + random.nextInt(MOST_ROWS);
            ids = IntStream.range(0, count).mapToObj(row -> "r" + row).toArray(String[]::new);
            world = new Random(seed * 0xA0761D6478BD642FL);
            gateway = world.nextInt(4) == 0 ? Optional.of(Gateway.any(world, 0)) : Optional.empty();
            isTorn = world.nextBoolean();
            isPriced = world.nextBoolean();
            versions = new int[ids.length];
            rows = new ArrayList<>(List.of(ids));
            server = new Server(this);
        }

        void play() throws Exception {
            var folder = Given.folderInMemory("seeds-");
            try {
                int troubled = 1 + random.nextInt(4);
                boolean isOfGateways = ids.length == ROWS_OF_GATEWAYS;
                if (isOfGateways) {
                    for (int session = 0; session < KILLS; session++) killed(folder);
                    troubled = 0;
                }
                int shards = isWide && !isOfGateways && more.nextInt(4) == 0 ? 2 : 1;
                for (int session = 0; session < troubled; session++) {
                    if (shards > 1) output = shard(1 + more.nextInt(shards));
                    if (isWide) changeInput();
                    troubled(folder);
                }
                for (int number = 1; number <= shards; number++) {
                    if (shards > 1) output = shard(number);
                    // twice: what only appears after a row was sent again is reported by the next start
                    calm(folder, false);
                    // a session later, jobs that a worker had reserved have begun
                    if (gateway.isPresent()) now = now.plus(Gateway.LONGEST_RUN);
                    calm(folder, true);
                }
            } catch (AssertionError | RuntimeException problem) {
                Throwable cause = problem;
                while (cause.getCause() != null) cause = cause.getCause(); // of a worker
                throw new AssertionError("seed " + seed + ": " + cause.getMessage()
                        + " (repeat: benchmarks/seeds --from " + seed + " --seeds 1 --trace)", problem);
            } finally {
                Given.delete(folder);
            }
        }

        private static String shard(int number) {
            return "results." + number + "-of-2.jsonl";
        }

        /// The user sorts the CSV in another way, or takes a row out for a while. One of the batch's rows stays.
        private void changeInput() {
            if (more.nextInt(4) == 0) Collections.shuffle(rows, more);
            if (more.nextInt(4) > 0) return;
            restoreInput();
            var removed = rows.get(more.nextInt(rows.size()));
            boolean isLast = disks.values().stream().anyMatch(known -> known.isAttempted(removed)
                    && rows.stream().noneMatch(id -> !id.equals(removed) && known.isAttempted(id)));
            if (rows.size() > 1 && !isLast) rows.remove(removed);
        }

        private void restoreInput() {
            for (var id : ids) if (!rows.contains(id)) rows.add(id);
        }

        /// The rows of this batch or shard that the CSV has now.
        List<String> present() {
            var part = Shard.in(Path.of(output));
            return rows.stream().filter(id -> part.isEmpty() || part.get().holds(id)).toList();
        }

        /// Something goes wrong: the server, the disk, the power, a limit or the user.
        private void troubled(Path folder) throws Exception {
            if (sessions > 0 && chance(0.2)) versions[random.nextInt(ids.length)]++; // the user edits a row
            server.trouble = random.nextInt(10) * 0.1;
            server.broken = isWide && more.nextInt(4) == 0 ? Broken.any(more) : Broken.NOTHING;
            if (isWide && more.nextInt(10) == 0) kind = kind.upgraded();
            var scene = scene(folder);
            server.disturb();
            scene.slots = 1 + random.nextInt(4);
            scene.mode = random.nextBoolean() && !kind.isAgent() ? Mode.BLOCKING : Mode.STREAMING;
            scene.failedRuns = pick(Judge.RetryRuns.values());
            scene.grace = seconds(random.nextInt(20));
            if (chance(0.15)) scene.maxFailures = new Limits.Ceiling(1 + random.nextInt(3), 0);
            if (chance(0.1)) scene.maxTokens = 10L * (1 + random.nextInt(8));
            if (isPriced && world.nextInt(10) == 0) scene.maxCost = Job.PRICE.multiply(
                    BigDecimal.valueOf(1 + world.nextInt(20)));
            if (chance(0.3)) {
                scene.wait = Duration.ofMillis(random.nextInt(3000));
                scene.slots = 1;
            }
            if (sessions > 1) select(scene);
            if (isWide && sessions > 1) selectMore(scene);
            if (chance(0.25)) interrupt(scene);
            if (chance(0.1)) interrupt(scene);
            if (chance(0.4)) disk.crashAtForce = 1 + random.nextInt(20);
            else if (chance(0.1)) disk.failAtForce = 1 + random.nextInt(20);
            long crashAtWait = chance(0.4) ? random.nextInt(400) : Long.MAX_VALUE;
            play(scene, crashAtWait);
            now = scene.world.now().plusMillis(random.nextInt(chance(0.5) ? 2_000 : 200_000));
        }

        /// The tool is killed, while another caller's run occupies a worker.
        private void killed(Path folder) throws Exception {
            server.trouble = 0;
            var scene = scene(folder);
            scene.slots = 1 + world.nextInt(6);
            boolean isBlocking = seed % 2 == 1 && world.nextBoolean() && !kind.isAgent();
            scene.mode = isBlocking ? Mode.BLOCKING : Mode.STREAMING;
            server.occupy(Duration.ofMillis(world.nextInt(20_000)));
            play(scene, 10 + world.nextInt(world.nextBoolean() ? 100 : 800));
            now = scene.world.now().plusMillis(world.nextInt(world.nextBoolean() ? 2_000 : 600_000));
        }

        /// Nothing new goes wrong, so every row gets its outcome.
        private void calm(Path folder, boolean isLast) throws Exception {
            server.trouble = 0;
            server.broken = Broken.NOTHING;
            restoreInput();
            edits.clear();
            now = now.plusSeconds(400);
            var scene = scene(folder);
            scene.slots = 3;
            if (kind.isAgent()) scene.mode = Mode.STREAMING;
            var stop = play(scene, Long.MAX_VALUE);
            now = scene.world.now();
            check(stop.isEmpty() || stop.get().what().contains("all failed"), () -> "a calm session stopped: " + stop);
            if (isLast) new Check(this, scene).atEnd();
        }

        private Scene scene(Path folder) throws IOException {
            var csv = new StringBuilder("id,text\n");
            for (var id : rows) csv.append("%s,v%d%n".formatted(id, versions[List.of(ids).indexOf(id)]));
            var scene = new Scene(folder, csv.toString(), output);
            scene.edits = row -> edits.containsKey(row.id()) ? row.with(Map.of("text", edits.get(row.id()))) : row;
            scene.world.startAt(now);
            scene.world.mostWaits = 100_000;
            scene.app = kind.app;
            scene.server = kind.version;
            scene.timeout = TIMEOUT;
            scene.settle = gateway.isEmpty() ? SETTLE : null; // what is typed replaces the time for reserved jobs
            if (hasRequirement) scene.require = List.of("/grade:number");
            scene.backoff = new Backoff(seconds(1), LONGEST_DELAY, RETRIES, random::nextDouble);
            disk = new Disk(scene, disks.get(output));
            disks.put(output, disk);
            scene.disk = disk;
            scene.answer = (attempt, listener) -> {
                check(disk.isAttempted(attempt.user()), () -> "a request left before its attempt was on disk");
                check(scene.maxCost == null || disk.cost().compareTo(scene.maxCost) < 0,
                        () -> "a request left after --max-cost was reached");
                check(scene.maxTokens == null || disk.results() * Job.TOKENS < scene.maxTokens,
                        () -> "a request left after --max-tokens was reached");
                return server.run(attempt, listener);
            };
            scene.found = server::look;
            scene.probed = server::probe;
            scene.watched = tally -> {
                check(tally.succeeded() <= disk.results(), () -> "a result was shown before it was on disk");
                server.checkStandstill();
            };
            server.begin(scene);
            sessions++;
            return scene;
        }

        private void interrupt(Scene scene) {
            var time = Duration.ofMillis(random.nextInt(60_000));
            scene.interruptAfter(time);
            scene.world.in(time, () -> server.isStopping = true);
        }

        private void select(Scene scene) {
            switch (random.nextInt(6)) {
                case 0 -> {
                    server.permit(present().stream().filter(server::isUnmet).toList());
                    scene.selection = Batch.Selection.LISTED;
                }
                case 1 -> {
                    var named = present().stream().filter(_ -> chance(0.4)).toList();
                    if (named.isEmpty()) return;
                    server.permit(named);
                    scene.selection = Batch.Selection.named(named, true);
                }
                case 2 -> {
                    server.permit(present());
                    scene.resendUnknown = true;
                }
                default -> {} // the same command again
            }
        }

        /// What a part of the seeds asks for instead: a sample, the first rows, changed rows again, or a row that the
        /// shell has edited. The shell's process plays the next session, too, unless it was killed.
        private void selectMore(Scene scene) {
            if (more.nextBoolean()) edits.clear();
            switch (more.nextInt(8)) {
                case 0 -> scene.selection = Batch.Selection.PENDING.random(1 + more.nextInt(4), more.nextLong());
                case 1 -> scene.selection = new Batch.Selection(Set.of(), List.of(), 1 + more.nextInt(4),
                        OptionalLong.empty());
                case 2 -> {
                    server.permit(present().stream().filter(id -> versions[List.of(ids).indexOf(id)] > 0).toList());
                    scene.selection = Batch.Selection.PENDING.with(Batch.Selection.Choice.RERUN_CHANGED, true);
                }
                case 3 -> {
                    if (present().isEmpty()) return;
                    var id = present().get(more.nextInt(present().size()));
                    edits.put(id, "edited" + sessions);
                    server.permit(List.of(id));
                    scene.selection = Batch.Selection.named(List.of(id), true);
                }
                default -> {}
            }
        }

        private Optional<Stop> play(Scene scene, long crashAtWait) throws Exception {
            scene.world.eachWait = () -> {
                if (scene.world.waits() >= crashAtWait) throw new Crash();
            };
            var asked = scene.selection;
            say("session " + sessions + " " + kind + " " + scene.mode + " -c " + scene.slots + server.broken
                    + " " + output + " " + rows + " ids " + asked.ids() + (asked.isSample() ? " sample" : "")
                    + (asked.isLimited() ? " limit " + asked.limit() : "") + " " + asked.choices()
                    + (edits.isEmpty() ? "" : " edits " + edits));
            var stop = Optional.<Stop>empty();
            boolean hasCrashed = false;
            try {
                stop = alone(scene);
                say("end " + stop.map(Stop::what).orElse("").replace(scene.output.getParent() + "/", ""));
            } catch (Crash _) {
                hasCrashed = true;
                crashes++;
                for (var attempt : scene.sent)
                    if (attempt.isEdited() && server.isOpen(attempt)) lostEdits.put(attempt.row().id(), attempt.user());
                edits.clear();
                say("crash");
            }
            disk.close();
            server.leave();
            disk.restore();
            if (hasCrashed && chance(0.7)) disk.losePower(random);
            new Check(this, scene).afterSession(disk);
            scene.world.end();
            return stop;
        }

        /// Plays one session, and now and then starts another process meanwhile.
        private Optional<Stop> alone(Scene scene) throws Exception {
            try (var batch = scene.open()) {
                if (chance(0.05)) try (var second = scene.open()) {
                    check(false, () -> "two processes write " + second.batch.files().results().getFileName());
                } catch (Unusable _) {
                    // the first process holds the batch
                }
                var stop = scene.play(batch);
                var last = batch.finish(_ -> {});
                return stop.isPresent() ? stop : last;
            }
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
    }

    /// Knows which lines of the two files a power cut leaves.
    private static final class Disk implements LineFile.Disk {
        private final Scene scene;
        private final Forced results, log;
        int crashAtForce = 0, failAtForce = 0;
        private int forces = 0;
        private boolean isClosed = false;
        private Optional<Touched> touched = Optional.empty();

        /// A file to which another program has written, and its text before.
        private record Touched(Path file, String before) {
            static final String LINE = "a line of another program\n";
        }

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
        public synchronized void force(FileChannel channel, boolean all) throws IOException {
            if (isClosed) return;
            if (channel.size() == 0) return; // a new file beside the batch, after a failure
            var first = ByteBuffer.allocate(1);
            channel.read(first, 0);
            boolean isLog = first.get(0) == '{';
            if (!isLog && first.get(0) != Lines.BOM[0]) return; // neither log nor results, but the retry list
            boolean isLast = isLog && ++forces == crashAtForce;
            if (isLast && crashAtForce % 2 == 0) throw new Crash();
            if (isLog && forces == failAtForce) throw new IOException("Input/output error");
            var file = isLog ? log : results;
            var more = ByteBuffer.allocate((int) (channel.size() - file.bytes));
            channel.read(more, file.bytes);
            file.add(new String(more.array(), UTF_8).replace(Touched.LINE, "").getBytes(UTF_8));
            if (isLast) throw new Crash();
        }

        /// The process has ended. After a crash, the thread that forces the results may still be about to do so.
        synchronized void close() {
            isClosed = true;
        }

        /// Another program adds a line.
        void touch(boolean isLog) {
            var file = isLog ? scene.file(".log") : scene.output;
            if (!Files.exists(file)) return;
            try {
                touched = Optional.of(new Touched(file, Files.readString(file)));
                Files.writeString(file, Touched.LINE, StandardOpenOption.APPEND);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        /// Nothing was written after the other program's line, and the user removes it.
        void restore() throws IOException {
            if (touched.isEmpty()) return;
            var file = touched.get().file();
            var before = touched.get().before();
            check(Files.readString(file).equals(before + Touched.LINE), () -> "wrote to "
                    + file.getFileName() + ", which another program had changed");
            Files.writeString(file, before);
        }

        /// Whether the log contains an attempt of this user or row.
        boolean isAttempted(String name) {
            return log.text.indexOf("\"" + name + "\"") >= 0;
        }

        /// Whether the log contains how this user's attempt ended, apart from one that led to another attempt.
        boolean hasOutcome(String user) {
            return log.text.toString().lines().anyMatch(line -> line.contains("\"" + user + "\"")
                    && line.contains("\"event\":\"end\"")
                    && !line.contains("\"not_started\"") && !line.contains("\"again\""));
        }

        /// Whether the log contains that this user's run succeeded without the required outputs.
        boolean isUnmet(String user) {
            return Storage.withFileName(scene.file(".log"), () -> Files.readString(scene.file(".log"))).lines()
                    .anyMatch(line -> line.contains("\"" + user + "\"") && line.contains("\"event\":\"end\"")
                            && line.contains("\"outputs\""));
        }

        int results() {
            return results.lines;
        }

        /// What the results on disk have cost, as far as it is known.
        BigDecimal cost() {
            return Pattern.compile("\"total_price\":\"?([0-9.]+)").matcher(results.text).results()
                    .map(price -> new BigDecimal(price.group(1))).reduce(BigDecimal.ZERO, BigDecimal::add);
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

    /// What a server is: its version, and the kind of its app. The tool sees it in what its lists show, and in what its
    /// responses contain. Further kinds of apps are further constants.
    private enum Kind {
        WORKFLOW("1.14.2", AppKind.WORKFLOW), CHATFLOW("1.16.1", AppKind.CHATFLOW),
        OLD_WORKFLOW("1.9.2", AppKind.WORKFLOW), OLD_CHATFLOW("1.9.2", AppKind.CHATFLOW),
        CHAT("1.16.1", AppKind.CHAT), AGENT_CHAT("1.16.1", AppKind.AGENT_CHAT), AGENT("1.16.1", AppKind.AGENT),
        COMPLETION("1.16.1", AppKind.COMPLETION);

        static final List<Kind> OF_RUNS = List.of(WORKFLOW, CHATFLOW, OLD_WORKFLOW, OLD_CHATFLOW),
                OF_MESSAGES = List.of(CHAT, AGENT_CHAT, AGENT, COMPLETION);

        final String version;
        final AppKind app;

        Kind(String version, AppKind app) {
            this.version = version;
            this.app = app;
        }

        Kind upgraded() {
            if (isMessage()) return this;
            return app == AppKind.WORKFLOW ? WORKFLOW : CHATFLOW;
        }

        boolean isChatflow() {
            return app == AppKind.CHATFLOW;
        }

        /// Rows are processed in the API and have no run. Only their message is stored.
        boolean isMessage() {
            return !app.hasRuns();
        }

        boolean isAgent() {
            return this == AGENT || this == AGENT_CHAT;
        }

        /// Streams do not wait in a queue, runs do not pause, and no ends are made up.
        boolean isOld() {
            return this == OLD_WORKFLOW || this == OLD_CHATFLOW;
        }
    }

    /// A run on the server.
    private static final class Job {
        static final int TOKENS = 10;
        static final BigDecimal PRICE = new BigDecimal("0.01");

        final Attempt attempt;
        final Kind kind;
        final RunRef ref;
        final Instant begins;
        /// When a newer server lists it, and any server lists the conversation of a chatflow.
        final Instant listed;
        /// How often the user had allowed its row to be paid for once more.
        final int permit;
        final Fault fault;
        /// The server does not say when it began.
        final boolean hidesAge;
        Instant ends, answered = Instant.MIN;
        /// When its client closed the connection.
        Instant left = Instant.MAX;
        RunStatus end = RunStatus.SUCCEEDED;
        String error = "";
        /// Its output `grade` as JSON; empty if it has none.
        String grade = "1";
        /// Its worker is gone, so it stays running for good.
        boolean isDead = false;
        /// Whether a look-up has shown that its time is over.
        boolean isOverdue = false;
        /// Whether its client got its first event, and its end.
        boolean isNamed = false, isHeard = false;
        /// Whether its server's model has a price, and its message was torn.
        boolean isPriced = false, wasTorn = false;

        Job(Attempt attempt, Kind kind, RunRef ref, Instant begins, Instant listed, int permit, Fault fault,
                boolean hidesAge) {
            this.attempt = attempt;
            this.kind = kind;
            this.ref = ref;
            this.begins = begins;
            this.listed = listed;
            this.permit = permit;
            this.fault = fault;
            this.hidesAge = hidesAge;
        }

        boolean isStream() {
            return attempt.mode() == Mode.STREAMING;
        }

        /// A paused run succeeds when somebody has answered.
        RunStatus status(Instant now) {
            if (isDead || now.isBefore(ends)) return RunStatus.RUNNING;
            return end == RunStatus.PAUSED && !now.isBefore(answered) ? RunStatus.SUCCEEDED : end;
        }

        /// Returns whether its user leads to it. An older server lists a workflow's run at its end, and a stream only if
        /// its client was there.
        boolean isListed(Instant now) {
            if (kind != Kind.OLD_WORKFLOW) return !listed.isAfter(now);
            return isStream() ? isHeard : !isDead && !now.isBefore(ends);
        }

        /// Returns whether a tool that asks can see by now that it has succeeded.
        boolean hasVisiblySucceeded(Instant now) {
            boolean isKnown = isNamed && !kind.isMessage();
            return !begins.isAfter(now) && status(now).isSuccess() && kind != Kind.COMPLETION
                    && (isKnown || isListed(now) && !isUnanswered());
        }

        /// Returns whether the message of a chatflow stays empty: on an older server, if its client left. In apps
        /// without a workflow, on any server, but an old agent's thought has the answer.
        boolean isUnanswered() {
            if (kind.isMessage()) return isStream() && left.isBefore(ends) && kind != Kind.AGENT_CHAT;
            return kind == Kind.OLD_CHATFLOW && isStream() && !isHeard;
        }

        /// The response to its request.
        Response.Ran ran(Instant now) {
            var status = status(now);
            boolean isRun = !kind.isMessage() && (!kind.isChatflow() || isStream());
            if (isRun || status == RunStatus.PAUSED) return ran(ref, status, error);
            if (status == RunStatus.STOPPED) return stopped();
            return status == RunStatus.FAILED ? Response.Ran.failed("Run failed: " + error) : answer();
        }

        Response.Ran ran(RunRef ref, RunStatus status, String error) {
            var ran = new Response.Ran(ref, status, outputs(), error, "workflow-1", new Usage(1, 3, cost(isHeard)));
            return kind.isChatflow() ? ran.with(message(), outputs()) : ran;
        }

        /// The answer of a chatflow, which does not name its run.
        private Response.Ran answer() {
            return Response.Ran.answered(outputs(), 1, message());
        }

        private Response.Ran stopped() {
            return Response.Ran.answered(outputs(), 1, new Response.ChatMessage("c", "m", Cost.NONE)).stopped();
        }

        private ObjectNode outputs() {
            return Given.outputs("{\"row\":\"" + attempt.row().id() + "\",\"run\":\"" + ref.id() + "\""
                    + (grade.isEmpty() ? "" : ",\"grade\":" + grade) + "}");
        }

        private Response.ChatMessage message() {
            return new Response.ChatMessage("conversation-of-" + ref.id(), "message-of-" + ref.id(), cost(true));
        }

        /// A workflow's run has a price only in its stream. Every third one costs ten times as much.
        private Cost cost(boolean isShown) {
            boolean isKnown = isPriced && isShown && (kind != Kind.WORKFLOW && kind != Kind.OLD_WORKFLOW || isStream());
            var price = ref.id().hashCode() % 3 == 0 ? PRICE.multiply(BigDecimal.TEN) : PRICE;
            return isKnown ? new Cost(TOKENS, price, "USD") : Cost.of(TOKENS);
        }

        /// Its message while its tokens are newer than its text.
        LookUpResult torn() {
            return ended(Response.Ran.answered(Given.outputs("{\"answer\":\"\"}"), 1, message()), attempt.row().inputs());
        }

        Response.Ran madeUp(String error) {
            return new Response.Ran(ref, RunStatus.FAILED, Given.outputs("{}"), error, "", Usage.NONE);
        }

        /// What the server shows of it.
        ///
        /// @param isById whether its id is known; otherwise a chatflow shows only its message
        LookUpResult seen(Instant now, boolean isById) {
            var status = status(now);
            if (kind == Kind.COMPLETION) return new LookUpResult.Unlisted();
            if (kind.isMessage()) isById = false;
            boolean isChat = kind.isChatflow() || kind.isMessage();
            if (isChat && !isById && (status == RunStatus.RUNNING || isUnanswered()))
                return new LookUpResult.Unanswered(false);
            if (status == RunStatus.RUNNING || status == RunStatus.PAUSED)
                return new LookUpResult.Running(new RunRef(ref.id(), ""), status,
                        Optional.of(Duration.between(begins, now)).filter(_ -> !hidesAge), Duration.ZERO);
            boolean isNamed = isById || !isChat;
            var named = Optional.of(ref).filter(_ -> isNamed);
            if (fault == Fault.TOO_LARGE && status.isSuccess())
                return new LookUpResult.Inconclusive(new Response.Unreadable(named, "too large"));
            var inputs = attempt.row().inputs();
            if (named.isPresent()) return ended(ran(ref, status, error), inputs);
            return switch (status) {
                case FAILED -> ended(Response.Ran.failed(error), inputs);
                case STOPPED -> kind.isMessage() ? ended(stopped(), inputs)
                        : new LookUpResult.Unanswered(!kind.isOld());
                case SUCCEEDED, PARTIAL, PAUSED, RUNNING -> ended(answer(), inputs);
            };
        }

        private static LookUpResult ended(Response.Ran ran, Map<String, String> inputs) {
            return new LookUpResult.Ended(ran, inputs, Optional.empty());
        }

        boolean hasGrade() {
            return grade.equals("1");
        }

        boolean isOf(JsonNode inputs) {
            return attempt.row().inputs().equals(Given.JSON.convertValue(inputs, Map.class));
        }
    }

    /// A part of the server that gives no usable response while a session lasts, although the other parts work: the
    /// matrix of routes and faults, as far as the engine sees it. Requests are carried out.
    private record Broken(Part part, Way way) {
        static final Broken NOTHING = new Broken(Part.NONE, Way.CUT);

        enum Part { NONE, RUNS, LOOK_UPS, PROBES }

        /// The connection breaks before or within a response, none comes, only pings come, or the content is not
        /// Dify's: half of its JSON, a page, nothing, or a number that no parser can hold.
        enum Way { CUT, CUT_WITHIN, NO_RESPONSE, PINGS, UNUSABLE }

        static Broken any(Random random) {
            var part = Part.values()[1 + random.nextInt(3)];
            var way = Way.values()[random.nextInt(Way.values().length)];
            // a look-up that gets no response has no deadline while the server answers other requests
            return new Broken(part, part == Part.LOOK_UPS ? Way.UNUSABLE : way);
        }

        boolean is(Part part) {
            return this.part == part;
        }

        boolean isSlow() {
            return way == Way.NO_RESPONSE || way == Way.PINGS;
        }

        Response response() {
            return way == Way.UNUSABLE ? Response.Refused.unexpected("not Dify's") : Given.cut(Symptom.NO_RESPONSE);
        }

        @Override
        public String toString() {
            return is(Part.NONE) ? "" : ", broken: " + part + " " + way;
        }
    }

    /// A gateway in front of the server, which buffers whole responses. After its limit, it answers itself, and what it
    /// has asked for continues. One without a server behind it answers at once.
    ///
    /// @param status  of its answer; 200 for a page
    /// @param workers how many run streamed jobs; 0 for one that runs all of them at once
    private record Gateway(Duration limit, int status, int workers) {
        /// Dify ends a run after this time, and so another caller's that occupies a worker.
        static final Duration LONGEST_RUN = seconds(1200);

        /// @param least the smallest number of workers
        static Gateway any(Random random, int least) {
            return new Gateway(seconds(List.of(2, 20).get(random.nextInt(2))),
                    List.of(200, 500, 502, 503, 504).get(random.nextInt(5)), random.nextInt(least, 3));
        }

        Response response() {
            return status == 200 ? Given.cut(Symptom.GATEWAY) : Given.late(status);
        }
    }

    /// The workers of a server, each with a slot. Each reserves one more job, which waits for it even if another one is
    /// free. They take jobs in the order of their requests.
    private static final class Workers {
        private final List<List<Supplier<Instant>>> ends;
        private final Random random;
        private Instant lastTaken = Instant.MIN;

        Workers(int count, Random random) {
            this.ends = Stream.generate(() -> (List<Supplier<Instant>>) new ArrayList<Supplier<Instant>>()).limit(count)
                    .toList();
            this.random = random;
        }

        private static Instant room(List<Supplier<Instant>> worker, Instant now) {
            var open = worker.stream().map(Supplier::get).filter(end -> end.isAfter(now)).sorted().toList();
            return open.size() < 2 ? now : open.get(open.size() - 2);
        }

        /// Gives a job to a worker. Returns when it begins.
        ///
        /// @param end returns when the job ends
        Instant take(Instant now, Supplier<Instant> end) {
            var from = Collections.max(List.of(now, lastTaken));
            lastTaken = ends.stream().map(worker -> room(worker, from)).min(Comparator.naturalOrder()).orElseThrow();
            var takers = ends.stream().filter(worker -> !room(worker, from).isAfter(lastTaken)).toList();
            var taker = takers.get(random.nextInt(takers.size()));
            var free = taker.stream().map(Supplier::get).max(Comparator.naturalOrder()).orElse(lastTaken);
            taker.add(end);
            return Collections.max(List.of(lastTaken, free));
        }
    }

    /// `LATE`: the run begins long after its request was given up. `TOO_LARGE`: its result is too large for the tool.
    private enum Fault {
        NONE, FAILS, THROTTLED, LATER, NOT_SENT, ERROR_BEFORE, ERROR_DURING, LOST, CUT, MADE_UP, CONTRADICTED, DOUBLED,
        DELAYED, LATE, SLOW, STOPPED, PAUSED, TOO_LARGE, SILENT
    }

    /// Dify as far as the tool can tell, of a [Kind]: runs of newer ones are listed a moment after they begin, and go on
    /// when nobody listens. Their streams begin one after the other, in the order of their requests.
    private static final class Server {
        /// Dify ends a stream after this silence.
        private static final Duration SILENCE = seconds(300);
        /// The longest time of a run.
        private static final Duration SLOWEST = Duration.ofMillis(200_500);
        /// The longest time without a request although rows wait, nothing runs and the server is well.
        private static final Duration STANDSTILL = seconds(25);
        /// A conversation that is looked up earlier may be hidden for good.
        private static final Duration FIRST_LOOK = seconds(2);
        /// The tool's limit for the response to a request that starts no run.
        private static final Duration QUERY = seconds(30);

        private final Schedule schedule;
        final List<Job> jobs = new ArrayList<>();
        /// How often the user has allowed each row to be paid for once more.
        final Map<String, Integer> permits = new HashMap<>();
        Scene scene;
        double trouble = 0;
        Broken broken = Broken.NOTHING;
        /// How much longer a session may take because the server asks it to wait, or is away.
        private Duration excused = Duration.ZERO;
        /// Until when the queue of streams stands still, and when its last stream begins.
        private Instant queueMoves = Instant.MIN, lastBegins = Instant.MIN;
        /// Until when the server is away, and until when it has asked for no requests.
        private Instant away = Instant.MIN, paused = Instant.MIN;
        private int sentInVain = 0; // while the server was away
        private boolean isShutOut = false;
        /// After a signal, nothing is looked up. Streams that must not be closed are waited for.
        boolean isStopping = false;
        private Optional<Instant> shutOut = Optional.empty();
        private final Set<String> open = new HashSet<>(), overdue = new HashSet<>(); // users
        /// When this session began, and when each row last had a response.
        private Instant began;
        private final Map<String, Instant> answered = new HashMap<>();
        private Workers workers; // null without a gateway in front of them
        /// When a request was last sent, or could not be sent for a reason.
        private Instant lastMoved;

        Server(Schedule schedule) {
            this.schedule = schedule;
        }

        /// The process has ended, and its connections with it.
        void leave() {
            for (var job : jobs) if (!job.isHeard && job.left.equals(Instant.MAX)) job.left = scene.world.now();
        }

        /// Another process: its key is accepted, and nobody has asked it to wait.
        void begin(Scene scene) {
            this.scene = scene;
            began = lastMoved = scene.world.now();
            excused = Duration.ZERO;
            answered.clear();
            open.clear();
            jobs.forEach(job -> job.isOverdue = false);
            away = paused = Instant.MIN;
            isShutOut = isStopping = false;
            shutOut = Optional.empty();
        }

        private boolean hasWorkers() {
            int count = schedule.gateway.map(Gateway::workers).orElse(0);
            if (workers == null && count > 0) workers = new Workers(count, schedule.world);
            return count > 0;
        }

        /// Lets another caller's run take a worker after this time.
        void occupy(Duration after) {
            if (hasWorkers()) scene.world.in(after, () -> {
                var until = new AtomicReference<>(Instant.MAX);
                var begins = workers.take(scene.world.now(), until::get);
                until.set(begins.plusMillis(schedule.world.nextLong(Gateway.LONGEST_RUN.toMillis())));
            });
        }

        /// Plans what happens to the server during this session.
        void disturb() {
            if (schedule.chance(trouble / 3)) within(60, "the queue stands still",
                    now -> queueMoves = excused(now, Duration.ofMillis(schedule.random.nextInt(150_000))));
            if (schedule.chance(trouble / 3)) within(60, "restart", now -> jobs.stream()
                    .filter(job -> !now.isBefore(job.begins) && now.isBefore(job.ends))
                    .forEach(job -> job.isDead = true));
            if (schedule.chance(trouble / 3)) within(60, "away", now -> {
                away = excused(now, Duration.ofMillis(schedule.random.nextInt(120_000)));
                sentInVain = 0;
            });
            if (schedule.chance(trouble / 8)) within(60, "the key is withdrawn", _ -> isShutOut = true);
            if (schedule.chance(trouble / 8)) within(60, "another program writes",
                    _ -> schedule.disk.touch(schedule.chance(0.5)));
        }

        private Instant excused(Instant now, Duration time) {
            excused = excused.plus(time);
            return now.plus(time);
        }

        /// The longest time that this session may take.
        Duration bound() {
            var query = broken.isSlow() ? QUERY : seconds(1);
            var firstEvent = scene.mode == Mode.STREAMING ? SILENCE : Duration.ZERO;
            if (schedule.kind.isMessage()) firstEvent = SILENCE.plus(SLOWEST); // it must not be closed
            var requests = new SessionBound.Requests(query, firstEvent, SessionBound.Requests.SLOWEST.silence());
            var settle = schedule.gateway.isEmpty() ? Schedule.SETTLE : Gateway.LONGEST_RUN;
            return new SessionBound(Schedule.TIMEOUT, settle, Schedule.LONGEST_DELAY, Schedule.RETRIES,
                    scene.slots, requests).of(schedule.ids.length).plus(excused);
        }

        private void within(int seconds, String what, Consumer<Instant> event) {
            scene.world.in(Duration.ofMillis(schedule.random.nextInt(1000 * seconds)), () -> {
                schedule.say(what);
                event.accept(scene.world.now());
            });
        }

        void permit(List<String> ids) {
            ids.forEach(id -> permits.merge(id, 1, Integer::sum));
            schedule.lostEdits.keySet().removeAll(ids);
        }

        /// Whether a run of the row failed the requirement, and nobody has asked for another one since.
        boolean isUnmet(String id) {
            return jobs.stream().anyMatch(job -> job.attempt.row().id().equals(id)
                    && job.permit == permits.getOrDefault(id, 0) && schedule.disk.isUnmet(job.attempt.user()));
        }

        boolean isOpen(Attempt attempt) {
            return open.contains(attempt.user());
        }

        private boolean isAway() {
            return scene.world.now().isBefore(away);
        }

        Response run(Attempt attempt, Consumer<StreamEvent> listener) throws InterruptedException {
            var fault = possible(schedule.chance(trouble) ? schedule.pick(Fault.values()) : Fault.NONE, attempt.mode());
            schedule.say(attempt.row().id() + " " + attempt.user().replaceAll(".*-", "#") + " " + fault);
            lastMoved = scene.world.now();
            checkPause();
            if (isAway()) {
                sentInVain++;
                check(sentInVain <= scene.slots, () -> sentInVain + " rows in doubt with -c " + scene.slots);
                fault = Fault.LOST;
            }
            checkSuccess(attempt);
            check(!isUnmet(attempt.row().id()), () -> "row " + attempt.row().id()
                    + " was sent again although it only failed the requirement");
            var lost = schedule.lostEdits.get(attempt.row().id());
            check(lost == null || schedule.disk.hasOutcome(lost), () -> "row " + attempt.row().id()
                    + " was sent again although its edits are lost");
            open.add(attempt.user());
            if (scene.wait != null) excused = excused.plus(scene.wait);
            int places = scene.mode == Mode.STREAMING ? 2 * scene.slots : scene.slots; // silent streams hold none
            check(open.size() <= places, () -> open.size() + " requests at a time with -c " + scene.slots);
            pass(schedule.random.nextInt(1500));
            var response = isShutOut ? shutOut() : broken.is(Broken.Part.RUNS) && !isAway()
                    ? broken(start(attempt, fault, Duration.ZERO), listener) : run(attempt, fault, listener);
            open.remove(attempt.user());
            answered.put(attempt.row().id(), scene.world.now());
            return response;
        }

        /// A stopped chatflow's answer looks like a whole one without a stream.
        private Fault possible(Fault fault, Mode mode) {
            return switch (fault) {
                case PAUSED, MADE_UP, DOUBLED -> schedule.kind.isOld() || schedule.kind.isMessage() ? Fault.CUT : fault;
                case CONTRADICTED -> schedule.kind.isMessage() ? Fault.CUT : fault;
                case STOPPED -> schedule.kind.isChatflow() && mode != Mode.STREAMING ? Fault.FAILS : fault;
                default -> fault;
            };
        }

        private Response shutOut() {
            if (shutOut.isEmpty()) shutOut = Optional.of(scene.world.now());
            return Given.http(401, "unauthorized", "Access token is invalid");
        }

        /// The run goes on, but nobody learns it from its response.
        private Response broken(Job job, Consumer<StreamEvent> listener) throws InterruptedException {
            boolean isStream = job.isStream();
            return switch (broken.way()) {
                case CUT, UNUSABLE -> broken.response();
                case CUT_WITHIN -> brokenOff(job, Fault.CUT, listener);
                case NO_RESPONSE, PINGS -> {
                    if (isStream) yield silent(job);
                    pass(Schedule.TIMEOUT.toMillis());
                    yield cut(job, Symptom.TIMED_OUT);
                }
            };
        }

        private Response run(Attempt attempt, Fault fault, Consumer<StreamEvent> listener) throws InterruptedException {
            if (fault == Fault.THROTTLED || fault == Fault.NOT_SENT) excused = excused.plus(Schedule.LONGEST_DELAY);
            return switch (fault) {
                case NONE, FAILS, STOPPED, SLOW, PAUSED, TOO_LARGE, DOUBLED -> {
                    var job = start(attempt, fault, Duration.ZERO);
                    yield schedule.gateway.isEmpty() ? toItsEnd(job, fault, listener)
                            : buffered(job, schedule.gateway.get(), fault, listener);
                }
                case THROTTLED -> Given.THROTTLED;
                case LATER -> later();
                case NOT_SENT -> new Response.NotSent("connection refused", "");
                case ERROR_BEFORE -> schedule.gateway.isEmpty()
                        ? Given.http(500, "internal_server_error", "The server encountered an error") : Given.html(503);
                case LOST -> Given.cut(Symptom.NO_RESPONSE);
                case DELAYED -> {
                    start(attempt, fault, Duration.ofMillis(schedule.random.nextInt(5_000)));
                    yield Given.cut(Symptom.NO_RESPONSE);
                }
                case LATE -> {
                    start(attempt, fault, seconds(20 + schedule.random.nextInt(200)));
                    yield Given.cut(Symptom.NO_RESPONSE);
                }
                case ERROR_DURING, CUT, MADE_UP, CONTRADICTED ->
                        brokenOff(start(attempt, fault, Duration.ZERO), fault, listener);
                case SILENT -> silent(start(attempt, fault, Duration.ZERO));
            };
        }

        /// Nothing passes a gateway before the end of the run.
        private Response buffered(Job job, Gateway gateway, Fault fault, Consumer<StreamEvent> listener)
                throws InterruptedException {
            var until = scene.world.now().plus(gateway.limit());
            while (scene.world.now().isBefore(until) && scene.world.now().isBefore(job.ends))
                pass(Math.max(1, Math.min(1000, Math.min(left(until), left(job.ends)))));
            if (!job.isDead && !scene.world.now().isBefore(job.ends)) return toItsEnd(job, fault, listener);
            job.left = scene.world.now();
            return gateway.response();
        }

        /// Whatever makes a row be sent again, runs of its earlier attempts are looked up after that. A row with a message
        /// that appears late is forgotten if it was still empty at that moment, and may be sent again.
        private void checkSuccess(Attempt attempt) {
            var id = attempt.row().id();
            var since = answered.getOrDefault(id, began);
            var inputs = attempt.row().inputs(); // a failed row may run again with others
            var sought = jobs.stream().filter(job -> job.permit == permits.getOrDefault(id, 0)
                    && (job.fault != Fault.LATE || job.kind.app == AppKind.WORKFLOW));
            check(sought.noneMatch(job -> job.attempt.row().inputs().equals(inputs)
                    && job.hasVisiblySucceeded(since)), () -> "row " + id + " was sent again after its success");
        }

        /// Nothing may be sent for a while, or for so long that the batch stops.
        private Response later() {
            var asked = seconds(schedule.chance(0.1) ? 700 : 1 + schedule.random.nextInt(90));
            paused = Collections.max(List.of(paused, excused(scene.world.now(), asked)));
            return Given.later(schedule.pick(429, 503), asked);
        }

        private void checkPause() {
            check(!scene.world.now().isBefore(paused), () -> "a request left before Retry-After was over");
        }

        private Job start(Attempt attempt, Fault fault, Duration delay) {
            var begins = scene.world.now().plus(delay);
            boolean isStream = attempt.mode() == Mode.STREAMING;
            boolean isQueued = isStream && !schedule.kind.isOld() && !schedule.kind.isMessage();
            boolean isTaken = isQueued && fault != Fault.LATE && hasWorkers();
            var end = new AtomicReference<>(Instant.MAX);
            if (isTaken) begins = workers.take(Collections.max(List.of(begins, queueMoves)), end::get);
            else if (isQueued) begins = Collections.max(List.of(begins, queueMoves, lastBegins));
            if (isQueued && fault != Fault.LATE && !isTaken) lastBegins = begins;
            // a stream's first event follows once its run is stored
            var listed = isStream ? begins : begins.plusMillis(schedule.random.nextInt(2_000));
            var job = new Job(attempt, schedule.kind, Given.run("run-" + jobs.size()), begins, listed,
                    permits.getOrDefault(attempt.row().id(), 0), fault, schedule.chance(0.2));
            boolean isSlow = fault == Fault.SLOW || fault == Fault.CUT && schedule.chance(0.3);
            job.ends = begins.plusMillis(500 + schedule.random.nextInt(isSlow ? 200_000 : 20_000));
            if (job.ends.isBefore(listed)) job.ends = listed;
            if (schedule.hasRequirement && schedule.outputs.nextInt(3) == 0)
                job.grade = List.of("", "\" \"", "null", "\"good\"").get(schedule.outputs.nextInt(4));
            if (fault == Fault.STOPPED) job.end = RunStatus.STOPPED;
            if (fault == Fault.PAUSED) {
                job.end = RunStatus.PAUSED;
                job.answered = job.ends.plusSeconds(schedule.random.nextInt(2000));
            } else if (fault == Fault.FAILS || fault != Fault.NONE && schedule.chance(0.2)) {
                job.end = RunStatus.FAILED;
                job.error = schedule.pick("Rate Limit Error", "the node Code failed");
            }
            end.set(job.ends);
            job.isPriced = schedule.isPriced && schedule.world.nextInt(4) > 0;
            jobs.add(job);
            scene.alarms.put(job.ref.task(), () -> stop(job));
            return job;
        }

        private void began(Job job, Consumer<StreamEvent> listener) {
            if (!job.isStream()) return;
            job.isNamed = true;
            listener.accept(new StreamEvent.Began(job.ref));
            if (schedule.chance(trouble / 4)) listener.accept(new StreamEvent.Began(job.ref)); // doubled
        }

        private Response toItsEnd(Job job, Fault fault, Consumer<StreamEvent> listener) throws InterruptedException {
            while (scene.world.now().isBefore(job.begins)) pass(Math.min(1000, left(job.begins)));
            began(job, listener);
            var timeout = scene.world.now().plus(Schedule.TIMEOUT);
            boolean staysOpen = job.kind.isMessage() && job.isStream();
            while (isShutOut && !staysOpen || scene.world.now().isBefore(job.ends)) {
                if (!staysOpen && !scene.world.now().isBefore(timeout)) return cut(job, Symptom.TIMED_OUT);
                if (job.isDead) return cut(job, Symptom.CUT);
                pass(isShutOut ? 1000 : Math.min(1000, 1 + left(job.ends)));
            }
            // it died at the last moment
            if (job.isDead && (job.kind.isChatflow() || job.kind.isMessage())) return cut(job, Symptom.CUT);
            var now = scene.world.now();
            job.isHeard = true;
            if (fault == Fault.TOO_LARGE) return new Response.Unreadable(Optional.of(job.ref), "too large");
            if (fault != Fault.DOUBLED || !job.isStream()) return job.ran(now);
            var other = schedule.chance(0.5) ? job.ran(now) : job.madeUp("connection error");
            return Response.ofEnds(Optional.of(job.ref), schedule.chance(0.5) ? List.of(job.ran(now), other)
                    : List.of(other, job.ran(now)));
        }

        private long left(Instant until) {
            return Duration.between(scene.world.now(), until).toMillis();
        }

        /// A stream whose events do not arrive. Its run must be found meanwhile.
        private Response silent(Job job) throws InterruptedException {
            if (!job.isStream()) return cut(job, Symptom.NO_RESPONSE);
            var until = scene.world.now().plus(SILENCE);
            for (int calm = 0; scene.world.now().isBefore(until); pass(1000)) {
                // then nothing is looked up: after a limit or a signal, after an outage before a probe succeeds,
                // and never a completion
                boolean mayStop = scene.maxFailures != null || scene.maxTokens != null || scene.maxCost != null
                        || isStopping || job.kind == Kind.COMPLETION || broken.is(Broken.Part.PROBES);
                if (mayStop || isAway() || scene.world.now().isBefore(paused) || isShutOut) calm = 0;
                else calm++;
                boolean wasLookedUp = scene.looked.stream().anyMatch(look -> look.attempt().user()
                        .equals(job.attempt.user()));
                int seconds = calm;
                check(calm < 100 || wasLookedUp, () -> "nobody has looked for a stream that is silent for "
                        + seconds + " s");
            }
            job.left = scene.world.now();
            return Given.cut(Symptom.STREAM_SILENT);
        }

        private Response brokenOff(Job job, Fault fault, Consumer<StreamEvent> listener) throws InterruptedException {
            boolean isStream = job.isStream();
            if (!scene.world.now().isBefore(job.begins)) began(job, listener);
            pass(schedule.random.nextInt(schedule.chance(0.3) ? 50_000 : 3_000));
            var words = schedule.pick("connection error", "the engine has lost the run");
            if (fault == Fault.ERROR_DURING)
                return Given.http(500, "internal_server_error", "The server encountered an error");
            // a run in the queue has no end, because a worker makes it up
            boolean hasBegun = !scene.world.now().isBefore(job.begins);
            if (fault == Fault.MADE_UP && isStream && hasBegun) return job.madeUp(words);
            if (fault == Fault.CONTRADICTED && isStream && hasBegun) return Response.ofEnds(Optional.of(job.ref),
                    List.of(job.ran(Given.run("run-of-another"), RunStatus.SUCCEEDED, "")));
            return cut(job, fault == Fault.CONTRADICTED ? Symptom.CONTRADICTED : Symptom.CUT);
        }

        /// A stream has named its run when it began.
        private Response cut(Job job, Symptom symptom) {
            job.left = scene.world.now();
            boolean isNamed = job.isStream() && !scene.world.now().isBefore(job.begins);
            return isNamed ? Given.cut(symptom, job.ref) : Given.cut(symptom);
        }

        private void pass(long millis) throws InterruptedException {
            scene.world.pass(Duration.ofMillis(millis));
        }

        LookUpResult look(Question question) {
            checkPause();
            if (question.stopsFirst()) overdue.add(question.attempt().user());
            scene.wait(Duration.ofMillis(schedule.random.nextInt(800)));
            if (isAway()) return new LookUpResult.Inconclusive(Given.cut(Symptom.NO_RESPONSE));
            if (isShutOut) return new LookUpResult.Inconclusive(Given.http(401, "unauthorized", "Access token is invalid"));
            if (broken.is(Broken.Part.LOOK_UPS)) return new LookUpResult.Inconclusive(broken.response());
            if (schedule.chance(trouble / 2)) return new LookUpResult.Inconclusive(failure());
            var user = question.attempt().user();
            var now = scene.world.now();
            boolean isById = question.run().isPresent();
            boolean isByUser = schedule.kind.isChatflow() && !isById || schedule.kind.isMessage();
            check(!isByUser || schedule.kind == Kind.COMPLETION
                    || !now.isBefore(question.attempt().at().plus(FIRST_LOOK)),
                    () -> "a conversation was looked up before its user was there");
            var found = jobs.stream().filter(job -> job.attempt.user().equals(user))
                    .filter(job -> isById && job.isNamed && !job.kind.isMessage() || job.isListed(now)).findFirst();
            if (question.stopsFirst()) found.ifPresent(this::stop);
            var result = schedule.kind == Kind.COMPLETION ? new LookUpResult.Unlisted()
                    : found.map(job -> job.seen(now, isById)).orElse(ABSENT);
            boolean mayTear = schedule.isTorn && found.filter(job -> job.kind.isMessage()).isPresent();
            if (mayTear && result instanceof LookUpResult.Ended(var ran, _, _) && ran.status().isSuccess()
                    && !found.get().wasTorn) {
                found.get().wasTorn = true;
                result = found.get().torn();
            }
            schedule.say("look " + question.attempt().row().id() + " " + question.purpose() + " "
                    + user.replaceAll(".*-", "#") + " " + result.word());
            // its request is given up
            if (question.purpose() == Purpose.QUIET && result instanceof LookUpResult.Ended) open.remove(user);
            boolean hasItsTime = question.purpose() == Purpose.OUTCOME;
            if (hasItsTime && result instanceof LookUpResult.Running)
                checkTime(found.get(), overdue.contains(user), now);
            return result;
        }

        /// Answers that say nothing about the run.
        private Response failure() {
            return schedule.chance(0.1) ? later() : schedule.pick(
                    Given.http(500, "internal_server_error", "no"), Given.cut(Symptom.NO_RESPONSE), Given.html(502),
                    Given.http(400, "invalid_param", "no"), Response.Refused.unexpected("a page of a proxy"));
        }

        /// A run counts as unknown, or is stopped, at the first look-up after its time.
        private void checkTime(Job job, boolean isStopped, Instant now) {
            check(!job.isOverdue || isStopped, () -> job.ref.id() + " is waited for after its time is over");
            var begins = job.begins.isAfter(job.attempt.at()) ? job.begins : job.attempt.at();
            job.isOverdue = job.end != RunStatus.PAUSED && now.isAfter(begins.plus(Schedule.TIMEOUT).plusSeconds(1));
        }

        private void stop(Job job) {
            var now = scene.world.now();
            if (job.isDead || job.status(now) != RunStatus.RUNNING || schedule.chance(trouble / 4)) return;
            job.ends = now;
            job.end = schedule.pick(RunStatus.STOPPED, RunStatus.FAILED);
            if (job.kind.isMessage()) job.end = RunStatus.STOPPED;
            job.error = "Aborted: User requested stop";
        }

        Optional<Response> probe() {
            checkPause();
            if (broken.is(Broken.Part.PROBES) && !isAway()) {
                if (broken.isSlow()) scene.wait(QUERY);
                return Optional.of(broken.response());
            }
            return isAway() || schedule.chance(trouble / 2)
                    ? Optional.of(new Response.NotSent("connection refused", "")) : Optional.empty();
        }

        boolean hasPaused(String id) {
            return jobs.stream().anyMatch(job -> job.attempt.row().id().equals(id) && job.end == RunStatus.PAUSED);
        }

        /// Runs that were cut off may keep their places on the server, but the other rows continue.
        void checkStandstill() {
            var now = scene.world.now();
            boolean mayWait = scene.busy > 0 || isAway() || !broken.is(Broken.Part.NONE) || now.isBefore(paused)
                    || isShutOut
                    || scene.tally.activity().pause().isPresent() || scene.selection != Batch.Selection.PENDING
                    || schedule.present().stream().allMatch(schedule.disk::isAttempted);
            if (mayWait) lastMoved = now;
            check(now.isBefore(lastMoved.plus(STANDSTILL)), () -> "no row was sent for " + STANDSTILL);
        }

        /// When the server accepts the key no longer, the session ends soon.
        void checkShutOut() {
            var now = scene.world.now();
            boolean staysOpen = schedule.kind.isMessage() && scene.mode == Mode.STREAMING;
            if (!staysOpen) shutOut.ifPresent(since -> check(now.isBefore(since.plusSeconds(10)),
                    () -> "the session went on for " + Duration.between(since, now) + " after the key was withdrawn"));
        }
    }

    /// What must hold, whatever happened.
    private record Check(Schedule schedule, Scene scene) {
        void afterSession(Disk disk) throws IOException {
            schedule.server.checkShutOut();
            // the progress is drawn five times a second, and each message may need a few waits
            long messages = 4L * scene.sent.size() + 2L * scene.looked.size() + 2L * scene.probes.size();
            long most = 100 + 6 * scene.world.passed().toSeconds() + 10 * messages;
            check(scene.world.waits() <= most, () -> scene.world.waits() + " waits in "
                    + scene.world.passed() + " with " + messages + " messages");
            var bound = schedule.server.bound();
            schedule.longest = Math.max(schedule.longest, scene.world.passed().toMillis() / (double) bound.toMillis());
            check(scene.world.passed().compareTo(bound) <= 0, () -> "the session took "
                    + scene.world.passed() + ", more than " + bound);
            if (Files.exists(scene.output)) check(disk.hasKept(Files.readString(scene.output)),
                    () -> "a result on disk has changed");
        }

        /// After sessions in which nothing went wrong.
        void atEnd() throws IOException {
            var withResult = new HashSet<String>();
            var runs = new HashSet<String>();
            for (var result : Files.exists(scene.output) ? scene.results() : List.<JsonNode>of()) {
                var run = result.at("/outputs/run").asText();
                var id = result.path("id").asText();
                withResult.add(id);
                var named = result.path("workflow_run_id").asText(run); // an answer names only its message
                check(named.isEmpty() || named.equals(run), () -> run + " has the id " + named);
                check(!schedule.hasRequirement || result.at("/outputs/grade").isNumber(),
                        () -> "the result of row " + id + " lacks what is required");
                check(runs.add(run), () -> "two results of " + run);
                check(paid(id).anyMatch(job -> job.ref.id().equals(run)),
                        () -> "row " + id + " has a wrong result: " + run);
                check(paid(id).anyMatch(job -> job.ref.id().equals(run) && job.isOf(result.path("inputs"))),
                        () -> "the result of row " + id + " has other inputs than " + run);
            }
            var ends = new HashMap<String, String>();
            for (var end : scene.log("end")) {
                ends.put(end.path("id").asText(), end.path("outcome").asText());
                check(!end.path("outcome").asText().equals("interrupted") || schedule.kind.isMessage()
                        || end.path("tokens").asInt() == Job.TOKENS, () -> "the tokens of a stopped run do not count");
            }
            var late = Set.copyOf(Scene.texts("user", scene.log("late")));
            for (var id : schedule.present()) paid(id).filter(job -> job.fault == Fault.LATE)
                    .filter(job -> job.hasVisiblySucceeded(scene.world.now()))
                    .filter(job -> !late.contains(job.attempt.user()))
                    .filter(job -> schedule.crashes == 0 || !runs.contains(job.ref.id())) // killed between both files
                    .filter(this::isPaidAgain).findFirst().ifPresent(job -> check(false,
                            () -> "row " + id + ": " + job.ref.id() + " is not reported as late"));
            for (var id : schedule.present()) row(id, withResult.contains(id) ? "success" : ends.getOrDefault(id, ""));
        }

        private Stream<Job> paid(String id) {
            return schedule.server.jobs.stream().filter(job -> job.attempt.row().id().equals(id)
                    && job.status(scene.world.now()).isSuccess());
        }

        /// Whether a later request of the row was paid for, too, without being asked for.
        private boolean isPaidAgain(Job late) {
            var jobs = schedule.server.jobs;
            return paid(late.attempt.row().id()).anyMatch(job -> job.permit == late.permit
                    && jobs.indexOf(job) > jobs.indexOf(late));
        }

        private void row(String id, String outcome) {
            var times = paid(id).filter(job -> job.fault != Fault.LATE)
                    .collect(Collectors.groupingBy(job -> job.permit, Collectors.counting()));
            check(times.values().stream().allMatch(count -> count == 1), () -> "row " + id
                    + " was paid twice: " + paid(id).map(job -> job.ref.id()).toList());
            boolean isPaused = outcome.equals("paused") && schedule.server.hasPaused(id);
            check(isPaused || List.of("success", "failed", "unknown").contains(outcome),
                    () -> "row " + id + " has no outcome: " + outcome);
            // with a requirement, what the row had before it was sent again on request does not count
            int permit = schedule.hasRequirement ? schedule.server.permits.getOrDefault(id, 0) : 0;
            check(!outcome.equals("failed") || paid(id).filter(job -> job.hasGrade() && job.permit >= permit)
                            .allMatch(job -> job.fault == Fault.LATE),
                    () -> "row " + id + " counts as failed, but its run has succeeded");
        }
    }
}
