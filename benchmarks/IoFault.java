///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Fails each call on a batch's files once and checks what the tool makes of it.
//SOURCES Chaos.java
//SOURCES ../tests/support/FaultyDisk.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs the real command with a library (`iofault.c`) that fails the N-th call on the batch's folder, for N = 1, 2, …
/// until the command ends before it makes that many calls. After each fault the batch is continued without faults.
///
/// The command has its own process, which is young when the fault meets it, as with a user; the server and the calls
/// after the fault run in this one, which saves their start. With `--one-process`, [Worker] runs all commands that need
/// not be killed.
@Command(name = "iofault", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Fail each call on a batch's files once, continue the batch, and check exit codes, messages, "
                + "results and the server's record. Exit code 1 if anything is wrong. Needs Linux and gcc "
                + "(Debian: apt install gcc libc6-dev; CC names another compiler).",
        footer = {"", "Example: benchmarks/iofault --command retry --call write",
            "Repeat one case: benchmarks/iofault --command retry --call write --fault ENOSPC --from 7 --cases 1"})
final class IoFault implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int ROWS = 12, LONGEST_SECONDS = 60, STUCK = -1;
    private static final String OLD = "the old file\n";

    @Option(names = "--source", paramLabel = "FILE", hidden = true, description = "Compile this library.")
    Path source = Path.of("benchmarks/iofault.c");

    @Option(names = "--command", paramLabel = "NAME",
            description = "Test only this command: ${COMPLETION-CANDIDATES} (default: all).")
    List<Tested> commands = List.of(Tested.values());

    @Option(names = "--call", paramLabel = "NAME",
            description = "Fail only this call: ${COMPLETION-CANDIDATES} (default: all).")
    List<Call> calls = List.of(Call.values());

    @Option(names = "--fault", paramLabel = "NAME",
            description = "Cause only this fault: ${COMPLETION-CANDIDATES} (default: all).")
    List<Fault> faults = List.of(Fault.values());

    @Option(names = "--from", paramLabel = "N", defaultValue = "1",
            description = "Begin with the N-th call (default: ${DEFAULT-VALUE}).")
    int from;

    @Option(names = "--cases", paramLabel = "N", description = "Test at most N calls of each kind (default: all).")
    int cases = Integer.MAX_VALUE;

    @Option(names = "--every", paramLabel = "N", defaultValue = "1",
            description = "Fail only every N-th call, for a shorter test (default: ${DEFAULT-VALUE}: each).")
    int every;

    @Option(names = "--one-process", description = "Run the commands in one process, as the shell does, unless it is to "
            + "be killed. This takes a tenth of the time.")
    boolean isOneProcess;

    @Option(names = "--folder", paramLabel = "DIR",
            description = "Keep the files of failed cases in DIR (default: a temporary folder).")
    Path folder;

    private FaultyDisk disk;
    private final Map<String, Map<String, Integer>> table = new LinkedHashMap<>();
    private int faultsInjected = 0, violations = 0, unknown = 0;

    static void main(String... args) {
        DifyExec.setProperties();
        System.exit(new CommandLine(new IoFault()).setCaseInsensitiveEnumValuesAllowed(true).execute(args));
    }

    /// In the order of iofault.c.
    enum Call {
        OPEN, WRITE, FSYNC, RENAME, TRUNCATE, UNLINK, LOCK, READ, STAT, READDIR, CLOSE, SEEK, MAP, MODE, MKDIR,
        /// Every call that changes something.
        CHANGE
    }

    /// @param errno      a number of errno, or one of the marks of iofault.c
    /// @param isLasting  all later calls of the kind fail, too
    enum Fault {
        EIO(5, false), ENOSPC(28, false), SIGKILL(0, false), EIO_FROM(5, true), ENOSPC_FROM(28, true),
        READ_ONLY_FROM(30, true), SLOW(-1, true), POWER_CUT(-2, false);

        /// Between two of these calls, a power cut always leaves the same.
        private static final Set<Call> CHANGING = EnumSet.of(Call.WRITE, Call.FSYNC, Call.RENAME, Call.TRUNCATE,
                Call.UNLINK);

        final int errno;
        final boolean isLasting;

        Fault(int errno, boolean isLasting) {
            this.errno = errno;
            this.isLasting = isLasting;
        }

        /// A full disk also cuts a write in its middle: the next one gets the error.
        int until(Call call, int from) {
            if (isLasting) return 0;
            return this == ENOSPC && call == Call.WRITE ? from + 1 : from;
        }

        boolean isDeadly() {
            return this == SIGKILL || this == POWER_CUT;
        }

        boolean isPossible(Call call) {
            return switch (this) {
                case EIO, SIGKILL -> call != Call.CHANGE;
                case POWER_CUT -> CHANGING.contains(call);
                case ENOSPC -> List.of(Call.WRITE, Call.OPEN, Call.RENAME).contains(call);
                case EIO_FROM, SLOW -> call == Call.FSYNC;
                case ENOSPC_FROM -> call == Call.WRITE;
                case READ_ONLY_FROM -> call == Call.CHANGE;
            };
        }
    }

    /// A command, the batch that it finds, and the file that it may write.
    enum Tested {
        RUN_BLOCKING("run --mode blocking", ""),
        RUN_STREAMING("run --mode streaming", ""),
        RESUME("run --mode blocking", ""),
        RETRY("retry --mode blocking", ""),
        EXPORT_CSV("export --force out.csv", "out.csv"),
        EXPORT_XLSX("export --force out.xlsx", "out.xlsx"),
        STATUS_HTML("status --force --html out.html", "out.html"),
        VERIFY("verify", "");

        final List<String> words;
        final String target;

        Tested(String words, String target) {
            this.words = List.of(words.split(" "));
            this.target = target;
        }

        boolean isStreaming() {
            return this == RUN_STREAMING;
        }

        /// JSON lines are copied to the temporary folder, which is in the batch's folder here.
        String input() {
            return this == RUN_STREAMING || this == RETRY ? "data.jsonl" : "data.csv";
        }
    }

    @Override
    public Integer call() throws Exception {
        if (folder == null) folder = Files.createTempDirectory("iofault-").toRealPath();
        Files.createDirectories(folder);
        folder = folder.toRealPath();
        Files.createDirectories(place().resolve("tmp"));
        System.setProperty("java.io.tmpdir", place().resolve("tmp").toString()); // before the tool reads it
        disk = FaultyDisk.compile(source, folder);
        new Chaos.Tool(folder, List.of(), URI.create("http://127.0.0.1"), "", "").archiveClasses();
        for (var command : commands) try (var batch = new Tried(command)) {
            for (var call : calls) for (var fault : faults) if (fault.isPossible(call)) {
                int before = faultsInjected;
                sweep(batch, call, fault);
                if (faultsInjected > before) System.err.println(command + " " + call + " " + fault + ": "
                        + (faultsInjected - before) + " faults, " + violations + " violations so far");
            }
        }
        print();
        if (violations == 0) Chaos.Tool.delete(folder);
        else System.out.println("files: " + folder);
        return violations == 0 ? 0 : 1;
    }

    private Path place() {
        return folder.resolve("batch");
    }

    private void sweep(Tried batch, Call call, Fault fault) throws Exception {
        long last = fault == Fault.SLOW ? 1 : (long) from + (cases - 1L) * every;
        for (int number = from; number <= last; number += every) {
            var outcome = batch.fail(call, fault, number);
            if (outcome.hit().isEmpty()) break;
            faultsInjected++;
            table.computeIfAbsent(call.name().toLowerCase(Locale.ROOT) + " | " + fault, _ -> new TreeMap<>())
                    .merge(outcome.problems().isEmpty() ? outcome.exit() : "wrong", 1, Integer::sum);
            if (outcome.problems().isEmpty()) continue;
            violations++;
            System.out.println("benchmarks/iofault --command " + batch.command + " --call " + call + " --fault "
                    + fault + " --from " + number + " --cases 1  # " + outcome.exit() + ", " + outcome.hit() + ": "
                    + String.join("; ", outcome.problems()));
            var kept = folder.resolve(String.join("-", batch.command.name(), call.name(), fault.name(), "" + number));
            if (Files.exists(kept)) Chaos.Tool.delete(kept);
            Files.move(place(), kept);
            Files.copy(folder.resolve("output"), kept.resolve("output-of-the-fault"));
        }
    }

    private void print() {
        var outcomes = List.of("exit 0", "exit 2", "exit 3", "exit 4", "killed", "wrong");
        System.out.println("| call | fault | faults | " + String.join(" | ", outcomes) + " |");
        System.out.println("|---|---|--:|" + "--:|".repeat(outcomes.size()));
        table.forEach((kind, counts) -> System.out.println("| " + kind + " | "
                + counts.values().stream().mapToInt(Integer::intValue).sum() + " | "
                + outcomes.stream().map(outcome -> "" + counts.getOrDefault(outcome, 0))
                        .collect(Collectors.joining(" | ")) + " |"));
        System.out.println(faultsInjected + " faults, " + violations + " violations, " + unknown
                + " rows unknown until --resend-unknown");
    }

    /// @param hit      the call that failed and its file, or empty if the command ended before
    /// @param problems what is wrong
    private record Outcome(String exit, String hit, List<String> problems) {}

    /// One command, the batch as it finds it, and the server as it was then.
    private final class Tried implements AutoCloseable {
        final Tested command;
        private final SimulatedDify dify = SimulatedDify.of("--dify", "1.16.1", "--columns", "id,text",
                "--latency", "3ms", "--speed", "10");
        private final SimulatedServer server;
        private final Path base;
        private Worker worker;
        private long sizeOfTarget = 0;

        Tried(Tested command) throws Exception {
            this.command = command;
            server = SimulatedServer.start(0, 0, dify);
            base = folder.resolve("base-" + command);
            if (Files.exists(base)) Chaos.Tool.delete(base);
            Files.createDirectories(base);
            prepare();
        }

        private void prepare() throws Exception {
            var csv = new StringBuilder("id,text\n");
            var lines = new StringBuilder();
            for (int row = 1; row <= ROWS; row++) {
                var text = "the text of row-" + row + ", é" + mark(row);
                csv.append("row-%d,\"%s\"\n".formatted(row, text));
                lines.append("{\"id\":\"row-%d\",\"text\":\"%s\"}\n".formatted(row, text));
            }
            Files.writeString(base.resolve("data.csv"), csv);
            Files.writeString(base.resolve("data.jsonl"), lines);
            Files.createDirectories(base.resolve("tmp"));
            switch (command) {
                case RUN_BLOCKING, RUN_STREAMING -> {}
                case RESUME -> {
                    tool(base, run("--limit", "6"));
                    tear(base.resolve("results.jsonl"), 1);
                    tear(base.resolve("results.jsonl.log"), 0);
                }
                case RETRY -> tool(base, run("--max-retries", "0"));
                case EXPORT_CSV, EXPORT_XLSX, STATUS_HTML, VERIFY -> {
                    tool(base, run());
                    if (command.target.isEmpty()) break;
                    tool(base, words(command.words));
                    sizeOfTarget = Files.size(base.resolve(command.target));
                    Files.writeString(base.resolve(command.target), OLD);
                }
            }
            dify.keep(Set.of("*"));
        }

        /// The last row of a new batch fails at first and is retried.
        private String mark(int row) {
            if (command == Tested.RETRY && row % 4 == 0) return " [fail]";
            boolean isNew = command == Tested.RUN_BLOCKING || command == Tested.RUN_STREAMING;
            return isNew && row == ROWS ? " [flaky]" : "";
        }

        /// As after a power cut: so many lines are missing, and the one before is cut in its middle. Attempts are on
        /// disk before they are sent, so that of the log only the end of its last line may be missing.
        private static void tear(Path file, int lines) throws IOException {
            var text = Files.readString(file, ISO_8859_1);
            for (int line = 0; line < lines; line++)
                text = text.substring(0, text.lastIndexOf('\n', text.length() - 2) + 1);
            Files.writeString(file, text.substring(0, text.length() - 30), ISO_8859_1);
        }

        private String[] run(String... more) {
            return words(List.of("run", "--mode", command.isStreaming() ? "streaming" : "blocking"), more);
        }

        /// The words of a command. `verify` does not want the input.
        private String[] words(List<String> command, String... more) {
            var words = new ArrayList<>(command);
            words.addAll(List.of("-o", "results.jsonl"));
            if (!command.getFirst().equals("verify")) words.addAll(List.of("-i", this.command.input()));
            if (List.of("run", "retry").contains(command.getFirst()))
                words.addAll(List.of("-c", "3", "--settle", "200ms", "--progress", "off"));
            words.addAll(List.of(more));
            return words.toArray(String[]::new);
        }

        private Map<String, String> settings() {
            return Map.of("DIFY_API_KEY", "app-iofault", "DIFY_API_BASE_URL", server.baseUrl().toString(),
                    "INITIAL_RETRY_DELAY", "10ms", "MAX_RETRY_DELAY", "50ms", "TIMEOUT", "5");
        }

        Outcome fail(Call call, Fault fault, int number) throws Exception {
            if (Files.exists(place())) Chaos.Tool.delete(place());
            copy(base, place());
            dify.keep(Set.of("*"));
            int startedBefore = stats().path("started").asInt();
            Files.deleteIfExists(report());
            var cause = new FaultyDisk.Fault(call.name().toLowerCase(Locale.ROOT), number, fault.until(call, number),
                    fault.errno);
            int exit = isOneProcess && !fault.isDeadly() ? inWorker(call, cause) : inOwnProcess(cause);
            if (!Files.exists(report())) return new Outcome("exit " + exit, "", List.of());
            var hit = Files.readAllLines(report()).getFirst();
            var problems = new ArrayList<String>();
            if (exit == STUCK) problems.add("no end within " + LONGEST_SECONDS + " s");
            else if (fault.isDeadly() ? exit != 128 + 9 : !List.of(0, 2, 3, 4).contains(exit))
                problems.add("exit code " + exit);
            if (exit == Exit.UNUSABLE.code && stats().path("started").asInt() > startedBefore)
                problems.add("exit code 2, though a run was started");
            checkOutput(exit, hit, problems);
            checkTarget(problems);
            boolean isUndone = !fault.isDeadly() && fault != Fault.READ_ONLY_FROM && command != Tested.RESUME;
            if (isUndone) checkLines(problems);
            if (exit == 0) checkSuccess(problems);
            continueBatch(problems);
            return new Outcome(exit == 128 + 9 ? "killed" : "exit " + exit, hit, problems);
        }

        private Path report() {
            return folder.resolve("report");
        }

        private int inWorker(Call call, FaultyDisk.Fault cause) throws Exception {
            if (worker == null || !worker.process.isAlive())
                worker = Worker.start(folder, place(), disk.environment(place(), report(), cause), disk, settings());
            var done = worker.execute(call, cause, absolute(place(), words(command.words)));
            Files.writeString(folder.resolve("output"), done.out() + done.err());
            return done.code();
        }

        private int inOwnProcess(FaultyDisk.Fault cause) throws Exception {
            var words = Chaos.Tool.java(List.of("-XX:-UsePerfData", "-XX:SharedArchiveFile=" + folder.resolve(
                    "classes.jsa"), "-Xlog:disable", "-Djava.io.tmpdir=" + place().resolve("tmp")),
                    "difyexec.DifyExec", List.of(words(command.words)));
            words.addAll(0, disk.preload());
            var builder = new ProcessBuilder(words).directory(place().toFile()).redirectErrorStream(true)
                    .redirectOutput(folder.resolve("output").toFile());
            builder.environment().putAll(settings());
            builder.environment().putAll(disk.environment(place(), report(), cause));
            var process = builder.start();
            if (process.waitFor(LONGEST_SECONDS, TimeUnit.SECONDS)) return process.exitValue();
            process.destroyForcibly().waitFor();
            return STUCK;
        }

        private void checkOutput(int exit, String hit, List<String> problems) throws IOException {
            var output = Files.readString(folder.resolve("output"));
            if (output.contains("\tat ") || output.contains("Exception")) problems.add("stack trace or class name");
            if (exit != 2 && exit != 4) return;
            var sentences = output.lines().filter(line -> line.matches("(difyexec|Stopped): .*")).toList();
            var file = Path.of(hit.substring(hit.indexOf(' ') + 1));
            boolean isNamed = sentences.stream().anyMatch(sentence -> isNamed(sentence, file));
            if (sentences.size() != 1) problems.add(sentences.size() + " sentences: " + sentences);
            else if (!isNamed) problems.add("names another file: " + sentences.getFirst());
        }

        /// A temporary file is known by the file that it becomes, and a folder by a file in it.
        private boolean isNamed(String sentence, Path file) {
            var name = file.getFileName().toString();
            if (sentence.contains(name)) return true;
            boolean hasOwnName = Files.isRegularFile(base.resolve(name)) || name.startsWith("results.jsonl");
            return !hasOwnName && Stream.of("results", "data.", "out.", "tmp", place().toString())
                    .anyMatch(sentence::contains);
        }

        private void checkTarget(List<String> problems) throws Exception {
            if (command.target.isEmpty()) return;
            var file = place().resolve(command.target);
            if (!Files.exists(file)) problems.add(command.target + " is missing");
            else if (!isWhole(file)) problems.add(command.target + " is neither the old nor the new file");
        }

        /// A write that failed was undone.
        private void checkLines(List<String> problems) throws IOException {
            for (var name : List.of("results.jsonl", "results.jsonl.log")) {
                var file = place().resolve(name);
                if (Files.exists(file) && !Files.readString(file, ISO_8859_1).matches("(?s)|.*\n"))
                    problems.add("half a line in " + name);
            }
        }

        /// A command that says that all is well has done its work. The new file has the size of one without a fault,
        /// which differs by the digits of its times.
        private void checkSuccess(List<String> problems) throws IOException {
            if (results().size() != ROWS) problems.add("exit code 0 with " + results().size() + " results");
            if (command == Tested.VERIFY && !Files.readString(folder.resolve("output")).matches(
                    "(?s).*matches +" + ROWS + "\\R.*")) problems.add("exit code 0, but not all results match");
            if (!command.target.isEmpty() && Math.abs(Files.size(place().resolve(command.target)) - sizeOfTarget) > 64)
                problems.add("exit code 0, but " + command.target + " is incomplete");
        }

        private static boolean isWhole(Path file) throws IOException {
            var text = Files.readString(file, ISO_8859_1);
            if (text.equals(OLD)) return true;
            if (file.toString().endsWith(".csv")) return text.lines().count() == 1 + ROWS;
            if (file.toString().endsWith(".html")) return text.strip().endsWith("</html>");
            try (var zip = new ZipFile(file.toFile())) {
                return zip.size() > 3;
            }
        }

        private void continueBatch(List<String> problems) throws Exception {
            var run = tool(place(), run());
            if (run.code() == 3) {
                int before = results().size();
                run = tool(place(), run("--resend-unknown"));
                unknown += results().size() - before;
            }
            if (run.code() != 0) problems.add("the run without a fault ended with " + run);
            var ids = new TreeSet<String>();
            for (var line : results()) {
                var id = line.path("id").asText();
                if (!ids.add(id)) problems.add("two results of " + id);
                if (!line.path("outputs").path("row_id").asText().equals(id)) problems.add("wrong result of " + id);
            }
            if (ids.size() != ROWS) problems.add(ids.size() + " results");
            var stats = stats();
            if (stats.path("twice").asInt() > 0 || stats.path("succeeded").asInt() != ROWS)
                problems.add("the server has " + stats.path("succeeded") + " successes, " + stats.path("twice")
                        + " of them second ones");
            checkViews(problems);
            if (!command.target.isEmpty()) {
                var again = tool(place(), words(command.words));
                if (again.code() != 0) problems.add("the command without a fault ended with " + again);
            }
            checkFolder(problems);
        }

        private void checkViews(List<String> problems) throws IOException {
            var status = tool(place(), words(List.of("status", "--json")));
            if (status.code() != 0 || JSON.readTree(status.out()).path("succeeded").asInt() != ROWS)
                problems.add("status: " + status);
            var verify = tool(place(), words(List.of("verify", "--json")));
            if (verify.code() != 0) problems.add("verify: " + verify);
        }

        /// A copy of an input may remain in `tmp` if its name could not be removed; it is empty then.
        private void checkFolder(List<String> problems) throws IOException {
            try (var files = Files.walk(place())) {
                files.filter(file -> Files.isRegularFile(file) && !isEmptyCopy(file))
                        .map(file -> place().relativize(file).toString())
                        .filter(file -> file.startsWith(".difyexec") || file.startsWith("tmp/")
                                && !file.endsWith(".lock"))
                        .forEach(file -> problems.add("left " + file));
            }
        }

        private static boolean isEmptyCopy(Path file) {
            return file.toString().endsWith(".copy") && file.toFile().length() == 0;
        }

        private List<JsonNode> results() throws IOException {
            return Chaos.Jsonl.read(place().resolve("results.jsonl")).lines();
        }

        /// Runs a command in this process, without faults.
        private Done tool(Path place, String... words) {
            return Done.of(settings(), absolute(place, words));
        }

        private String[] absolute(Path place, String... words) {
            var files = List.of("data.csv", "data.jsonl", "results.jsonl", command.target);
            return Stream.of(words).map(word -> files.contains(word) ? place.resolve(word).toString() : word)
                    .toArray(String[]::new);
        }

        private JsonNode stats() {
            return JSON.valueToTree(dify.ledger().stats(true));
        }

        @Override
        public void close() throws IOException {
            if (worker != null) worker.process.destroyForcibly();
            server.close();
        }
    }

    private record Done(int code, String out, String err) {
        /// Runs a command in this process.
        static Done of(Map<String, String> settings, String... words) {
            var out = new StringWriter();
            var err = new StringWriter();
            int code = DifyExec.commandLine(new Env(settings::get, "difyexec"), words)
                    .setOut(new PrintWriter(out)).setErr(new PrintWriter(err)).execute(words);
            return new Done(code, out.toString(), err.toString());
        }

        @Override
        public String toString() {
            return "exit code " + code + " " + err.strip().lines().collect(Collectors.joining(" / "));
        }
    }

    /// A process that runs one command after another, each with another fault.
    ///
    /// @param control a `struct control` of iofault.c
    record Worker(Process process, BufferedReader answers, Path control) {
        private static final int SIZE = 4 * Integer.BYTES + 3 * Long.BYTES;

        static void main() throws IOException {
            DifyExec.setProperties();
            System.out.println("ready"); // a fault must not meet the start of Java
            var commands = new BufferedReader(new InputStreamReader(System.in, UTF_8));
            for (var line = commands.readLine(); line != null; line = commands.readLine()) {
                var done = Done.of(System.getenv(), JSON.readValue(line, String[].class));
                System.out.println(JSON.writeValueAsString(done));
            }
        }

        static Worker start(Path folder, Path place, Map<String, String> faults, FaultyDisk disk,
                Map<String, String> settings) throws IOException {
            var control = Files.write(folder.resolve("control"), new byte[SIZE]);
            var words = Chaos.Tool.java(List.of("-Djava.io.tmpdir=" + place.resolve("tmp")), Worker.class.getName(),
                    List.of());
            words.addAll(0, disk.preload());
            var builder = new ProcessBuilder(words).directory(folder.toFile())
                    .redirectError(ProcessBuilder.Redirect.INHERIT);
            builder.environment().putAll(settings);
            builder.environment().putAll(faults);
            builder.environment().put("IOFAULT_CONTROL", control.toString());
            var process = builder.start();
            var answers = process.inputReader(UTF_8);
            if (answers.readLine() == null) throw new IOException("the process for the commands did not start");
            return new Worker(process, answers, control);
        }

        /// The faults end with the command. A command that does not end costs the process.
        Done execute(Call call, FaultyDisk.Fault fault, String... words) throws Exception {
            control(1, call, fault);
            var input = process.outputWriter(UTF_8);
            input.write(JSON.writeValueAsString(words) + "\n");
            input.flush();
            try {
                var answer = CompletableFuture.supplyAsync(() -> {
                    try {
                        return answers.readLine();
                    } catch (IOException problem) {
                        throw new UncheckedIOException(problem);
                    }
                }).get(LONGEST_SECONDS, TimeUnit.SECONDS);
                if (answer == null) return new Done(process.waitFor(), "", "");
                return JSON.readValue(answer, Done.class);
            } catch (TimeoutException _) {
                process.destroyForcibly().waitFor();
                return new Done(STUCK, "", "");
            } finally {
                control(0, call, fault);
            }
        }

        private void control(int isOn, Call call, FaultyDisk.Fault fault) throws IOException {
            var bytes = ByteBuffer.allocate(SIZE).order(ByteOrder.nativeOrder()).putInt(isOn).putInt(call.ordinal())
                    .putInt(fault.errno()).putInt(0).putLong(fault.from()).putLong(fault.until()).putLong(0);
            try (var file = FileChannel.open(control, StandardOpenOption.WRITE)) {
                file.write(bytes.flip());
            }
        }
    }

    private static void copy(Path from, Path to) throws IOException {
        try (var files = Files.walk(from)) {
            for (var file : files.toList()) Files.copy(file, to.resolve(from.relativize(file)));
        }
    }
}
