///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Cuts the power at any moment of a batch, and counts what is lost or paid twice.
//SOURCES Simulator.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.Env;
import static difyexec.DifyExec.Exit;
import static difyexec.DifyExec.commandLine;
import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs the real command under strace against [Simulator] in a process of its own. From the trace it rebuilds states of
/// the folder that a power cut may leave: what was forced is there; of what was not, each file keeps any prefix of its
/// bytes, and each new file, rename and removal may or may not have happened. For each state the simulator forgets the
/// requests that were sent later, and the batch is continued with the real command.
@Command(name = "powercut", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Cuts the power at random moments of a batch, continues it, and counts rows lost, wrong, paid "
                + "twice and unknown, and starts refused. Exit code 1 if a row is lost, wrong or paid twice, a start is "
                + "refused, or a request left before its attempt was on disk. Needs strace.",
        footer = {"", "Example: benchmarks/powercut --mode streaming --states 100",
            "A state that fails: benchmarks/powercut --mode streaming --replay DIR --state 17"})
final class PowerCut implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String KEY = "app-powercut", LOG = "results.jsonl.log";
    private static final int SHARDS = 4;

    /// `MERGE`: the power fails while four shards are merged.
    enum Mode { BLOCKING, STREAMING, CHATFLOW, MERGE }

    @Option(names = "--mode", paramLabel = "MODE", defaultValue = "blocking",
            description = "blocking, streaming, chatflow (streaming), or merge, of four shards (default: "
                    + "${DEFAULT-VALUE}).")
    Mode mode = Mode.BLOCKING;

    @Option(names = "--states", paramLabel = "N", defaultValue = "500", description = "Default: ${DEFAULT-VALUE}.")
    int states = 500;

    @Option(names = "--rows", paramLabel = "N", defaultValue = "200", description = "Default: ${DEFAULT-VALUE}.")
    int rows = 200;

    @Option(names = {"-c", "--concurrency"}, paramLabel = "N", defaultValue = "10",
            description = "Default: ${DEFAULT-VALUE}.")
    int concurrency = 10;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1", description = "Of moments and states.")
    long seed = 1;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.16.0",
            description = SimulatedRun.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    String version = "1.16.0";

    @Option(names = "--ignore-forcing",
            description = "As if nothing had been forced: this has to find rows paid twice.")
    boolean ignoresForcing;

    @Option(names = "--in-process", description = "Continue in this process, which is faster, not in one of its own.")
    boolean inProcess;

    @Option(names = "--replay", paramLabel = "DIR", description = "Use the trace that an earlier call has left there.")
    Path replay;

    @Option(names = "--state", paramLabel = "N", description = "Only this state.")
    Integer only;

    @Spec CommandSpec spec;

    private Path folder;
    /// What a replay has instead of what is in the trace.
    private final Map<String, String> replaced = new HashMap<>();

    static void main(String... args) {
        System.exit(new CommandLine(new PowerCut()).setCaseInsensitiveEnumValuesAllowed(true).execute(args));
    }

    static boolean isPossible() {
        try {
            return new ProcessBuilder("strace", "-o", "/dev/null", "true").start().waitFor() == 0;
        } catch (IOException | InterruptedException _) {
            return false;
        }
    }

    @Override
    public Integer call() throws Exception {
        folder = replay != null ? replay.toAbsolutePath() : Files.createTempDirectory("powercut-").toRealPath();
        var count = measure(System.out::println);
        System.out.println("| mode | dify | states | early | lost | wrong | twice | unknown | refused | seed |");
        System.out.println("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        System.out.println("| " + Stream.of(mode.name().toLowerCase(Locale.ROOT), version, count.states, count.early,
                count.lost, count.wrong, count.twice, count.unknown, count.refused, seed).map(String::valueOf)
                .collect(Collectors.joining(" | ")) + " |");
        if (count.isGood() && replay == null) delete(folder);
        else System.out.println("files: " + folder);
        return count.isGood() ? 0 : 1;
    }

    /// `early`: requests that left before their attempt was on disk. The others count rows, and `refused` starts.
    static final class Count {
        int states, early, lost, wrong, twice, unknown, refused;

        boolean isGood() {
            return early + lost + wrong + twice + refused == 0;
        }

        @Override
        public String toString() {
            return early + " early, " + lost + " lost, " + wrong + " wrong, " + twice + " paid twice, " + unknown
                    + " unknown, " + refused + " refused";
        }
    }

    /// For a test: in this folder, with these options.
    Count in(Path folder, Mode mode, int rows, int states, boolean ignoresForcing) throws Exception {
        this.ignoresForcing = ignoresForcing;
        this.folder = folder;
        this.mode = mode;
        this.rows = rows;
        this.states = states;
        this.concurrency = 4;
        this.inProcess = true;
        return measure(_ -> {});
    }

    private Count measure(Consumer<String> out) throws Exception {
        var count = new Count();
        try (var simulator = Simulated.start(simulatorOptions())) {
            if (replay == null) record(simulator);
            else resend(simulator);
            var trace = Trace.read(folder.resolve("trace"), folder.resolve("batch"), folder.resolve("base"));
            if (mode != Mode.MERGE && !ignoresForcing) count.early = trace.early();
            for (int number = only == null ? 1 : only; number <= (only == null ? states : only); number++) {
                var before = count.toString();
                var random = new SplittableRandom(seed * 1_000_003 + number);
                var state = trace.state(random, ignoresForcing);
                simulator.keep(mode == Mode.MERGE ? Set.of("*") : state.users());
                var place = folder.resolve("states/" + number);
                if (Files.exists(place)) delete(place); // of an earlier call
                Files.createDirectories(place);
                restore(state, place);
                judge(place, simulator, count);
                count.states++;
                if (count.toString().equals(before)) delete(place);
                else out.accept("state " + number + ", line " + state.moment() + " of the trace: " + count);
            }
        }
        return count;
    }

    private List<String> simulatorOptions() {
        return List.of("--dify", version, "--app", isChatflow() ? "chatflow" : "workflow", "--columns",
                isChatflow() ? "id" : "id,text", "--latency", "30ms", "--jitter", "70ms", "--seed", "" + seed);
    }

    private boolean isChatflow() {
        return mode == Mode.CHATFLOW;
    }

    private String text(String id) {
        return "the text of " + id + ", é";
    }

    /// Runs the batch under strace.
    private void record(Simulated simulator) throws Exception {
        var batch = Files.createDirectories(folder.resolve("batch"));
        var csv = new StringBuilder(isChatflow() ? "id,query\n" : "id,text\n");
        for (int row = 1; row <= rows; row++) csv.append("row-%d,\"%s\"\n".formatted(row, text("row-" + row)));
        Files.writeString(batch.resolve("data.csv"), csv);
        if (mode == Mode.MERGE) for (int shard = 1; shard <= SHARDS; shard++) // the last one has rows left
            continued(batch, simulator, "run", "--shard", shard + "/" + SHARDS, "--limit",
                    "" + (shard == SHARDS ? 3 : rows));
        copy(batch, folder.resolve("base"));
        var words = new ArrayList<>(List.of("strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "4194304", "-o",
                folder.resolve("trace").toString(), "-e", "trace=" + Trace.CALLS));
        words.addAll(java());
        words.addAll(arguments(mode == Mode.MERGE ? "merge" : "run"));
        int exit = start(words, batch, simulator);
        if (exit != 0 && !(mode == Mode.MERGE && exit == Exit.ROWS_FAILED.code))
            throw new IllegalStateException("the traced call ended with " + exit + ": " + said(batch));
        Files.writeString(folder.resolve("stats.json"), simulator.stats().toString());
        Files.writeString(folder.resolve("address"), simulator.address().toString());
    }

    /// For a replay: a new simulator gets the requests again. [#restore] puts its address and run ids in.
    private void resend(Simulated simulator) throws Exception {
        var sent = new LinkedHashMap<String, String>();
        try (var files = Files.list(folder.resolve("batch"))) {
            for (var log : files.filter(file -> file.toString().endsWith(".log")).toList())
                for (var line : lines(log)) if (line.path("event").asText().equals("attempt"))
                    sent.put(line.path("user").asText(), line.path("id").asText());
        }
        for (var each : sent.entrySet()) simulator.post(isChatflow() ? "chat-messages" : "workflows/run", isChatflow()
                ? JSON.createObjectNode().put("query", text(each.getValue())).put("user", each.getKey())
                        .put("response_mode", "blocking")
                        .set("inputs", JSON.createObjectNode().put("id", each.getValue()))
                : JSON.createObjectNode().put("user", each.getKey()).put("response_mode", "blocking").set("inputs",
                        JSON.createObjectNode().put("id", each.getValue()).put("text", text(each.getValue()))));
        var before = runs(JSON.readTree(folder.resolve("stats.json").toFile()));
        runs(simulator.stats()).forEach((user, run) -> replaced.put(before.get(user), run));
        replaced.put(Files.readString(folder.resolve("address")), simulator.address().toString());
    }

    private static Map<String, String> runs(JsonNode stats) {
        var runs = new HashMap<String, String>();
        stats.path("by_row").forEach(row -> row.path("runs").forEach(run ->
                runs.put(run.path("user").asText(), run.path("run").asText())));
        return runs;
    }

    private void restore(Trace.State state, Path place) throws IOException {
        for (var file : state.files().entrySet()) {
            var text = new String(file.getValue(), ISO_8859_1);
            for (var each : replaced.entrySet()) text = text.replace(each.getKey(), each.getValue());
            Files.write(place.resolve(file.getKey()), text.getBytes(ISO_8859_1));
        }
    }

    private void judge(Path place, Simulated simulator, Count count) throws Exception {
        int exit = mode == Mode.MERGE ? continued(place, simulator, "merge") : Exit.OK.code;
        if (exit == Exit.OK.code || exit == Exit.ROWS_FAILED.code) exit = continued(place, simulator, "run");
        if (exit != Exit.OK.code && exit != Exit.ROWS_FAILED.code) {
            count.refused++;
            return;
        }
        var ids = new HashSet<String>();
        for (var line : lines(place.resolve("results.jsonl"))) {
            var id = line.path("id").asText();
            boolean isRight = line.path("outputs").path("answer").asText().equals("Answer to: " + text(id))
                    && (isChatflow() || line.path("outputs").path("row_id").asText().equals(id)
                    && line.path("inputs").path("text").asText().equals(text(id)));
            if (!ids.add(id) || !isRight) count.wrong++;
        }
        if (exit == Exit.OK.code) count.lost += rows - ids.size();
        else count.unknown += rows - ids.size();
        for (var row : simulator.stats().path("by_row")) if (row.path("twice").asInt() > 0) count.twice++;
    }

    /// A line that cannot be read counts as a wrong one.
    private static List<JsonNode> lines(Path file) throws IOException {
        var lines = new ArrayList<JsonNode>();
        for (var line : Files.readString(file).replace("\uFEFF", "").split("\n")) {
            if (line.isBlank()) continue;
            try {
                lines.add(JSON.readTree(line));
            } catch (IOException _) {
                lines.add(JSON.createObjectNode());
            }
        }
        return lines;
    }

    private List<String> arguments(String command, String... more) {
        var words = new ArrayList<>(List.of(command, "-i", "data.csv", "-o", "results.jsonl"));
        if (command.equals("run")) words.addAll(List.of("-c", "" + concurrency, "--settle", "1", "--progress", "off",
                "--mode", mode == Mode.BLOCKING || mode == Mode.MERGE ? "blocking" : "streaming"));
        words.addAll(List.of(more));
        return words;
    }

    /// Returns the exit code of one call on a folder.
    private int continued(Path place, Simulated simulator, String command, String... more) throws Exception {
        var words = arguments(command, more);
        if (!inProcess) return start(Stream.of(java(), words).flatMap(List::stream).toList(), place, simulator);
        words.replaceAll(word -> List.of("data.csv", "results.jsonl").contains(word)
                ? place.resolve(word).toString() : word);
        var said = new StringWriter();
        int exit = commandLine(Env.of(settings(simulator))).setOut(new PrintWriter(said)).setErr(new PrintWriter(said))
                .execute(words.toArray(String[]::new));
        Files.writeString(place.resolve("said"), said.toString());
        return exit;
    }

    private static Map<String, String> settings(Simulated simulator) {
        return Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", simulator.address().resolve("/v1").toString(),
                "INITIAL_RETRY_DELAY", "200ms");
    }

    private static int start(List<String> words, Path place, Simulated simulator) throws Exception {
        var builder = new ProcessBuilder(words).directory(place.toFile()).redirectErrorStream(true)
                .redirectOutput(place.resolve("said").toFile());
        builder.environment().putAll(settings(simulator));
        return builder.start().waitFor();
    }

    private static String said(Path place) throws IOException {
        return Files.readString(place.resolve("said"));
    }

    private static List<String> java() {
        var paths = Stream.of(System.getProperty("java.class.path").split(File.pathSeparator))
                .filter(part -> !part.isEmpty()).map(part -> Path.of(part).toAbsolutePath().toString())
                .collect(Collectors.joining(File.pathSeparator));
        return List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", paths,
                "difyexec.DifyExec");
    }

    private static void copy(Path from, Path to) throws IOException {
        Files.createDirectories(to);
        try (var files = Files.list(from)) {
            for (var file : files.toList()) Files.copy(file, to.resolve(file.getFileName()));
        }
    }

    private static void delete(Path folder) throws IOException {
        try (var files = Files.walk(folder)) {
            for (var file : files.sorted(Comparator.reverseOrder()).toList()) Files.delete(file);
        }
    }

    /// The simulator in a process of its own.
    private record Simulated(Process process, URI address, HttpClient http) implements AutoCloseable {
        static Simulated start(List<String> options) throws IOException {
            var words = new ArrayList<>(java());
            words.set(words.size() - 1, "difyexec.Simulator");
            words.addAll(options);
            var process = new ProcessBuilder(words).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            var first = new BufferedReader(new InputStreamReader(process.getInputStream(), UTF_8)).readLine();
            if (first == null) throw new IOException("the simulator did not start");
            return new Simulated(process, URI.create(first), HttpClient.newHttpClient());
        }

        JsonNode stats() throws IOException, InterruptedException {
            return JSON.readTree(send(HttpRequest.newBuilder(address.resolve("/__stats"))));
        }

        /// Leaves only the requests of these users in the ledger; `*` stands for all that there were at first.
        void keep(Set<String> users) throws IOException, InterruptedException {
            send(HttpRequest.newBuilder(address.resolve("/__keep"))
                    .POST(HttpRequest.BodyPublishers.ofString(String.join("\n", users))));
        }

        void post(String path, JsonNode body) throws IOException, InterruptedException {
            send(HttpRequest.newBuilder(address.resolve("/v1/" + path)).header("Authorization", "Bearer " + KEY)
                    .header("Content-Type", "application/json")
                    .POST(HttpRequest.BodyPublishers.ofString(body.toString())));
        }

        private String send(HttpRequest.Builder request) throws IOException, InterruptedException {
            return http.send(request.build(), HttpResponse.BodyHandlers.ofString()).body();
        }

        @Override
        public void close() {
            http.close();
            process.destroy();
        }
    }

    // ── The trace ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// What strace saw of a folder and of requests. A call has begun at one line of the trace and ended at another: in
    /// between it may have happened.
    record Trace(Map<String, Inode> before, List<Op> ops, List<Force> forces, List<Send> sends) {
        static final String CALLS = "openat,creat,write,pwrite64,writev,pwritev,sendto,sendmsg,fsync,fdatasync,rename,"
                + "renameat,renameat2,unlink,unlinkat,link,linkat,ftruncate,copy_file_range,sendfile";
        private static final Pattern WHOLE = Pattern.compile("(\\d+) +(\\w+)\\((.*)\\) += (-?\\d+).*");
        private static final Pattern UNFINISHED = Pattern.compile("(\\d+) +(\\w+)\\((.*?) <unfinished \\.\\.\\.>");
        private static final Pattern RESUMED = Pattern.compile("(\\d+) +<\\.\\.\\. \\w+ resumed>(.*)\\) += (-?\\d+).*");
        private static final Pattern HEX = Pattern.compile("[<\"]((?:\\\\x[0-9a-f]{2})+)[>\"]");
        private static final Pattern USER = Pattern.compile("\"user\": ?\"([^\"]+-[0-9a-f]{16}-\\d+)\"");

        /// A file, whatever its name.
        static final class Inode {
            byte[] base = {};

            static Inode of(byte[] base) {
                var inode = new Inode();
                inode.base = base;
                return inode;
            }
        }

        /// A change of the folder or of a file. `from` and `to` are the lines of the trace where it began and ended.
        sealed interface Op {
            int from();

            int to();

            record Create(int from, int to, String name, Inode inode) implements Op {}

            record Rename(int from, int to, String name, String target, Inode inode) implements Op {}

            record Remove(int from, int to, String name) implements Op {}

            record Write(int from, int to, Inode inode, byte[] bytes) implements Op {}
        }

        /// Null: the folder was forced.
        record Force(int from, int to, Inode inode) {}

        record Send(int at, String user) {}

        /// @param users whose requests were sent
        record State(int moment, Map<String, byte[]> files, Set<String> users) {}

        private record Call(int from, String name, String arguments) {}

        static Trace read(Path file, Path folder, Path base) throws IOException {
            var names = new HashMap<String, Inode>();
            try (var files = Files.list(base)) {
                for (var each : files.toList())
                    names.put(each.getFileName().toString(), Inode.of(Files.readAllBytes(each)));
            }
            names.remove("said");
            var trace = new Trace(Map.copyOf(names), new ArrayList<>(), new ArrayList<>(), new ArrayList<>());
            var open = new HashMap<String, Call>();
            var calls = new ArrayList<Call>(); // as they began
            var ends = new HashMap<Call, Integer>();
            int number = 0;
            try (var lines = Files.lines(file, ISO_8859_1)) {
                for (var line : (Iterable<String>) lines::iterator) {
                    number++;
                    Matcher match;
                    if ((match = UNFINISHED.matcher(line)).matches()) {
                        var call = new Call(number, match.group(2), match.group(3));
                        open.put(match.group(1), call);
                        calls.add(call);
                    } else if ((match = RESUMED.matcher(line)).matches()) {
                        var call = open.remove(match.group(1));
                        if (call != null) ends.put(call, match.group(3).startsWith("-") ? -1 : number);
                    } else if ((match = WHOLE.matcher(line)).matches()) {
                        var call = new Call(number, match.group(2), match.group(3));
                        calls.add(call);
                        ends.put(call, match.group(4).startsWith("-") ? -1 : number);
                    }
                }
            }
            for (var call : calls) {
                int to = ends.getOrDefault(call, Integer.MAX_VALUE);
                if (to >= 0) trace.add(call, to, folder.toString(), names);
            }
            return trace;
        }

        private void add(Call call, int to, String folder, Map<String, Inode> names) {
            var texts = HEX.matcher(call.arguments()).results().map(match -> unhex(match.group(1))).toList();
            if (texts.isEmpty()) return;
            int from = call.from();
            var path = texts.getFirst();
            switch (call.name()) {
                case "openat" -> {
                    var name = name(texts.getLast(), folder);
                    if (name.isEmpty() || !call.arguments().contains("O_CREAT") || names.containsKey(name)) return;
                    names.put(name, new Inode());
                    ops.add(new Op.Create(from, to, name, names.get(name)));
                }
                case "rename", "renameat", "renameat2" -> {
                    var paths = texts.stream().filter(text -> !name(text, folder).isEmpty()).toList();
                    if (paths.isEmpty()) return;
                    String name = name(paths.getFirst(), folder), target = name(paths.getLast(), folder);
                    names.put(target, names.remove(name));
                    ops.add(new Op.Rename(from, to, name, target, names.get(target)));
                }
                case "unlink", "unlinkat" -> {
                    var name = name(texts.getLast(), folder);
                    if (names.remove(name) != null) ops.add(new Op.Remove(from, to, name));
                }
                case "fsync", "fdatasync" -> {
                    if (path.equals(folder)) forces.add(new Force(from, to, null));
                    else if (names.containsKey(name(path, folder)))
                        forces.add(new Force(from, to, names.get(name(path, folder))));
                }
                case "write", "writev", "sendto", "sendmsg" -> {
                    if (names.containsKey(name(path, folder)) && !name(path, folder).equals("said"))
                        ops.add(new Op.Write(from, to, names.get(name(path, folder)),
                                String.join("", texts.subList(1, texts.size())).getBytes(ISO_8859_1)));
                    else if (path.startsWith("socket:")) texts.stream().skip(1).forEach(text ->
                            USER.matcher(text).results().forEach(user -> sends.add(new Send(from, user.group(1)))));
                }
                default -> {
                    if (!name(path, folder).isEmpty())
                        throw new IllegalStateException("the trace has a call that is not followed: " + call.name());
                }
            }
        }

        /// Of a file of the folder.
        private static String name(String path, String folder) {
            if (!path.startsWith("/")) return path.contains("/") ? "" : path;
            return path.startsWith(folder + "/") ? path.substring(folder.length() + 1) : "";
        }

        private static String unhex(String text) {
            return new String(HexFormat.of().parseHex(text.replace("\\x", "")), ISO_8859_1);
        }

        /// Requests that left before their attempt was on disk.
        int early() {
            int early = 0;
            for (var send : sends) {
                var state = state(send.at(), _ -> false, (from, _) -> from);
                var log = new String(state.getOrDefault(LOG, new byte[0]), ISO_8859_1);
                if (log.lines().noneMatch(line -> line.startsWith("{\"event\":\"attempt\"")
                        && line.contains("\"" + send.user() + "\""))) early++;
            }
            return early;
        }

        /// Moments are where something begins or ends.
        State state(SplittableRandom random, boolean ignoresForcing) {
            var moments = Stream.of(ops.stream().flatMap(op -> Stream.of(op.from(), op.to())),
                    forces.stream().flatMap(force -> Stream.of(force.from(), force.to())),
                    sends.stream().map(Send::at)).flatMap(each -> each).distinct().sorted().toList();
            int moment = moments.get(random.nextInt(moments.size()));
            double happened = random.nextInt(3) / 2.0;
            var trace = ignoresForcing ? new Trace(before, ops, List.of(), sends) : this;
            var files = trace.state(moment, _ -> random.nextDouble() < happened,
                    (from, to) -> switch (random.nextInt(3)) {
                        case 0 -> from;
                        case 1 -> to;
                        default -> random.nextInt(from, to + 1);
                    });
            return new State(moment, files, sends.stream().filter(send -> send.at() <= moment).map(Send::user)
                    .collect(Collectors.toSet()));
        }

        /// @param happened decides whether a change of the folder that was not forced is there
        /// @param length   how much is there of a file, between what was forced and what was written
        private Map<String, byte[]> state(int moment, Predicate<Op> happened, IntBinaryOperator length) {
            var names = new TreeMap<>(before);
            for (var op : ops) {
                if (op.from() > moment || op instanceof Op.Write
                        || !isForced(op, null, moment) && !happened.test(op)) continue;
                switch (op) {
                    case Op.Create(_, _, var name, var inode) -> names.put(name, inode);
                    case Op.Rename(_, _, var name, var target, var inode) -> {
                        names.remove(name, inode);
                        names.put(target, inode);
                    }
                    case Op.Remove(_, _, var name) -> names.remove(name);
                    case Op.Write _ -> {}
                }
            }
            var files = new TreeMap<String, byte[]>();
            names.forEach((name, inode) -> {
                var bytes = new ByteArrayOutputStream();
                bytes.writeBytes(inode.base);
                int forced = bytes.size();
                for (var op : ops) if (op instanceof Op.Write write && write.inode() == inode && op.from() <= moment) {
                    bytes.writeBytes(write.bytes());
                    if (isForced(op, inode, moment)) forced = bytes.size();
                }
                files.put(name, Arrays.copyOf(bytes.toByteArray(), length.applyAsInt(forced, bytes.size())));
            });
            return files;
        }

        private boolean isForced(Op op, Inode inode, int moment) {
            return forces.stream().anyMatch(force -> force.inode() == inode && force.from() > op.to()
                    && force.to() <= moment);
        }
    }
}
