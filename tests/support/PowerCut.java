///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Simulates power cuts during a batch and counts rows lost or paid twice.
//SOURCES ../../DifyExec.java
//SOURCES Simulator.java
//SOURCES Given.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.*;
import picocli.CommandLine;
import picocli.CommandLine.*;

import module java.base;

import static difyexec.DifyExec.Exit;
import static difyexec.DifyExec.commandLine;
import static java.nio.charset.StandardCharsets.*;

/// Runs the real command under strace against [Simulator]. From the trace it rebuilds states of the
/// folder that a power cut can leave. Everything forced to disk (fsync) is there. Otherwise a file may keep any prefix
/// of its bytes, and each new file, rename and removal may be missing. For each state, the simulator forgets the
/// requests sent later, and the real command continues the batch.
@Command(name = "powercut", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Simulate power cuts at random moments of a batch, continue it, and count rows lost, wrong, paid "
                + "twice and unknown, and refused starts. Exit code 1 if a row is lost, wrong or paid twice, a "
                + "start is refused, or a request was sent before its attempt was on disk. Needs strace.",
        footer = {"", "Example: benchmarks/powercut --mode streaming --states 100"})
final class PowerCut implements Callable<Integer> {
    private static final String KEY = "app-powercut", LOG = "results.jsonl.log";

    enum Mode { BLOCKING, STREAMING, CHATFLOW }

    @Option(names = "--mode", paramLabel = "MODE", defaultValue = "blocking",
            description = "Test a blocking, streaming or chatflow (streaming) batch (default: ${DEFAULT-VALUE}).")
    Mode mode = Mode.BLOCKING;

    @Option(names = "--states", paramLabel = "N", defaultValue = "500",
            description = "Test N states (default: ${DEFAULT-VALUE}).")
    int states = 500;

    @Option(names = "--rows", paramLabel = "N", defaultValue = "200",
            description = "Run a batch of N rows (default: ${DEFAULT-VALUE}).")
    int rows = 200;

    @Option(names = {"-c", "--concurrency"}, paramLabel = "N", defaultValue = "10",
            description = "Run N rows at a time (default: ${DEFAULT-VALUE}).")
    int concurrency = 10;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1",
            description = "Seed for moments and states (default: ${DEFAULT-VALUE}).")
    long seed = 1;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.16.0",
            description = "Simulate Dify " + SimulatedRun.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    String version = "1.16.0";

    @Option(names = "--ignore-forcing",
            description = "Ignore every fsync, to check that rows paid twice are found.")
    boolean ignoresForcing;

    private Path folder;
    private SimulatedDify dify;
    private SimulatedServer server;

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
        folder = Files.createTempDirectory("powercut-").toRealPath();
        var count = measure(System.out::println);
        System.out.println(mode.name().toLowerCase(Locale.ROOT) + ", " + version + ", " + states + " states, seed "
                + seed + ": " + count);
        if (count.isGood()) Given.delete(folder);
        else System.out.println("files: " + folder);
        return count.isGood() ? 0 : 1;
    }

    /// `early` counts requests sent before their attempt was on disk, and `refused` counts starts of the tool. The
    /// others count rows.
    static final class Count {
        int early, lost, wrong, paidTwice, unknown, refused;

        boolean isGood() {
            return early + lost + wrong + paidTwice + refused == 0;
        }

        @Override
        public String toString() {
            return early + " early, " + lost + " lost, " + wrong + " wrong, " + paidTwice + " paid twice, " + unknown
                    + " unknown, " + refused + " refused";
        }
    }

    /// Used by tests.
    Count measure(Path folder, Mode mode, int rows, int states, boolean ignoresForcing) throws Exception {
        this.ignoresForcing = ignoresForcing;
        this.folder = folder;
        this.mode = mode;
        this.rows = rows;
        this.states = states;
        this.concurrency = 4;
        return measure(_ -> {});
    }

    private Count measure(Consumer<String> out) throws Exception {
        var count = new Count();
        dify = SimulatedDify.of("--dify", version, "--app", isChatflow() ? "chatflow" : "workflow", "--columns",
                isChatflow() ? "id" : "id,text", "--latency", "30ms", "--jitter", "70ms", "--seed", "" + seed);
        try (var started = SimulatedServer.start(0, 0, dify)) {
            server = started;
            record();
            var trace = Trace.read(folder.resolve("trace"), folder.resolve("batch"));
            if (!ignoresForcing) count.early = trace.early();
            for (int number = 1; number <= states; number++) {
                var before = count.toString();
                var random = new SplittableRandom(seed * 1_000_003 + number);
                var state = trace.state(random, ignoresForcing);
                dify.keep(state.users());
                var place = Files.createDirectories(folder.resolve("states/" + number));
                for (var file : state.files().entrySet()) Files.write(place.resolve(file.getKey()), file.getValue());
                judge(place, count);
                if (count.toString().equals(before)) Given.delete(place);
                else out.accept("state " + number + " (trace:" + state.moment() + "): " + count);
            }
        }
        return count;
    }

    private boolean isChatflow() {
        return mode == Mode.CHATFLOW;
    }

    private String text(String id) {
        return "the text of " + id + ", é";
    }

    /// Runs the batch under strace.
    private void record() throws Exception {
        var batch = Files.createDirectories(folder.resolve("batch"));
        var csv = new StringBuilder(isChatflow() ? "id,query\n" : "id,text\n");
        for (int row = 1; row <= rows; row++) csv.append("row-%d,\"%s\"\n".formatted(row, text("row-" + row)));
        Files.writeString(batch.resolve("data.csv"), csv);
        var words = new ArrayList<>(List.of("strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "4194304", "-o",
                folder.resolve("trace").toString(), "-e", "trace=" + Trace.CALLS));
        words.addAll(Given.Tool.words());
        words.addAll(arguments());
        var tool = new ProcessBuilder(words).directory(batch.toFile()).redirectErrorStream(true)
                .redirectOutput(batch.resolve("output").toFile());
        tool.environment().putAll(settings());
        int exit = tool.start().waitFor();
        if (exit != 0)
            throw new IllegalStateException("the traced call ended with exit code " + exit + ": "
                    + Files.readString(batch.resolve("output")));
    }

    private void judge(Path place, Count count) throws Exception {
        int exit = run(place);
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
        count.paidTwice += dify.ledger().all().filter(job -> job.twice).map(job -> job.row).distinct().count();
    }

    /// Returns an empty object for an unreadable line, so that it counts as wrong.
    private static List<JsonNode> lines(Path file) throws IOException {
        var lines = new ArrayList<JsonNode>();
        for (var line : Files.readString(file).replace("\uFEFF", "").split("\n")) {
            if (line.isBlank()) continue;
            try {
                lines.add(Given.tree(line));
            } catch (UncheckedIOException _) {
                lines.add(Given.JSON.createObjectNode());
            }
        }
        return lines;
    }

    private List<String> arguments() {
        return new ArrayList<>(List.of("run", "-i", "data.csv", "-o", "results.jsonl", "-c", "" + concurrency,
                "--settle", "1", "--timeout", "10", "--progress", "off", "--mode",
                mode == Mode.BLOCKING ? "blocking" : "streaming"));
    }

    /// Continues the batch in the folder, in this process, and returns the exit code.
    private int run(Path place) throws Exception {
        var words = arguments();
        words.replaceAll(word -> List.of("data.csv", "results.jsonl").contains(word)
                ? place.resolve(word).toString() : word);
        var output = new StringWriter();
        int exit = commandLine(Given.env(settings())).setOut(new PrintWriter(output))
                .setErr(new PrintWriter(output)).execute(words.toArray(String[]::new));
        Files.writeString(place.resolve("output"), output.toString());
        return exit;
    }

    private Map<String, String> settings() {
        return Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", server.baseUrl().toString(),
                "INITIAL_RETRY_DELAY", "200ms");
    }

    // ── Trace ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The changes of a folder, the fsyncs and the requests in a trace. Each call takes effect between the line at
    /// which it starts and the line at which it ends.
    record Trace(Map<String, Inode> before, List<Op> ops, List<Force> forces, List<Send> sends) {
        static final String CALLS = "openat,creat,write,pwrite64,writev,pwritev,sendto,sendmsg,fsync,fdatasync,rename,"
                + "renameat,renameat2,unlink,unlinkat,link,linkat,ftruncate,copy_file_range,sendfile";
        private static final Pattern WHOLE = Pattern.compile("(\\d+) +(\\w+)\\((.*)\\) += (-?\\d+).*");
        private static final Pattern UNFINISHED = Pattern.compile("(\\d+) +(\\w+)\\((.*?) <unfinished \\.\\.\\.>");
        private static final Pattern RESUMED = Pattern.compile("(\\d+) +<\\.\\.\\. \\w+ resumed>(.*)\\) += (-?\\d+).*");
        private static final Pattern HEX = Pattern.compile("[<\"]((?:\\\\x[0-9a-f]{2})+)[>\"]");
        private static final Pattern USER = Pattern.compile("\"user\": ?\"([^\"]+-[0-9a-f]{16}-\\d+)\"");

        /// A file, independent of its name.
        static final class Inode {
            final byte[] base;

            Inode(byte[] base) {
                this.base = base;
            }
        }

        /// A change of the folder or a file, between two lines of the trace.
        sealed interface Op {
            int from();

            int to();

            record Create(int from, int to, String name, Inode inode) implements Op {}

            record Rename(int from, int to, String name, String target, Inode inode) implements Op {}

            record Remove(int from, int to, String name) implements Op {}

            record Write(int from, int to, Inode inode, byte[] bytes) implements Op {}
        }

        /// @param inode the file, or null for the folder
        record Force(int from, int to, Inode inode) {}

        record Send(int at, String user) {}

        /// @param users the users of the requests sent so far
        record State(int moment, Map<String, byte[]> files, Set<String> users) {}

        private record Call(int from, String name, String arguments) {}

        /// Reads the trace of a call in a folder that had only the CSV before.
        static Trace read(Path file, Path folder) throws IOException {
            var csv = new Inode(Files.readAllBytes(folder.resolve("data.csv")));
            var names = new HashMap<>(Map.of("data.csv", csv));
            var trace = new Trace(Map.copyOf(names), new ArrayList<>(), new ArrayList<>(), new ArrayList<>());
            var open = new HashMap<String, Call>();
            var calls = new ArrayList<Call>(); // in the order of their starts
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
                    names.put(name, new Inode(new byte[0]));
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
                    if (names.containsKey(name(path, folder)) && !name(path, folder).equals("output"))
                        ops.add(new Op.Write(from, to, names.get(name(path, folder)),
                                String.join("", texts.subList(1, texts.size())).getBytes(ISO_8859_1)));
                    else if (path.startsWith("socket:")) texts.stream().skip(1).forEach(text ->
                            USER.matcher(text).results().forEach(user -> sends.add(new Send(from, user.group(1)))));
                }
                default -> {
                    if (!name(path, folder).isEmpty())
                        throw new IllegalStateException("unsupported call in the trace: " + call.name());
                }
            }
        }

        /// Returns an empty string for a path outside the folder.
        private static String name(String path, String folder) {
            if (!path.startsWith("/")) return path.contains("/") ? "" : path;
            return path.startsWith(folder + "/") ? path.substring(folder.length() + 1) : "";
        }

        private static String unhex(String text) {
            return new String(HexFormat.of().parseHex(text.replace("\\x", "")), ISO_8859_1);
        }

        /// Counts requests that were sent before their attempt was on disk.
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

        /// Picks a moment at which a call starts or ends.
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

        /// @param happened decides whether an unforced change of the folder took effect
        /// @param length   picks a file's length between the forced and the written length
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
