package difyexec;

import com.fasterxml.jackson.databind.ObjectMapper;
import difyexec.FaultyDisk.Fault;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// A process that runs one command of the tool after another, each with another fault of the disk, which saves the
/// start of Java for each. A fault must not meet that start.
///
/// @param control a `struct control` of `iofault.c`
/// @param report gets a line for each failed call
record FaultyTool(Process process, BufferedReader answers, Path control, Path report) implements AutoCloseable {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final List<String> CALLS = List.of("open", "write", "fsync", "rename", "truncate", "unlink", "lock",
            "read", "stat", "readdir", "close", "seek", "map", "mode", "mkdir");
    private static final int LONGEST = 1024, SIZE = 4 * Integer.BYTES + 3 * Long.BYTES + LONGEST;

    /// @param folder where the tool looks for `.env`
    /// @param input what is on standard input
    record Command(Map<String, String> settings, String folder, String input, List<String> words) {}

    record Done(int code, String out, String err) {}

    static void main() throws IOException {
        DifyExec.setProperties();
        var answers = System.out;
        var commands = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        answers.println("ready");
        for (var line = commands.readLine(); line != null; line = commands.readLine())
            answers.println(JSON.writeValueAsString(run(JSON.readValue(line, Command.class))));
    }

    /// Like the tool's `main`. What is printed without the command line's streams counts, too.
    private static Done run(Command command) throws IOException {
        System.setIn(new ByteArrayInputStream(command.input.getBytes(UTF_8)));
        var bytes = new ByteArrayOutputStream();
        System.setOut(new PrintStream(bytes, true, UTF_8));
        var out = new StringWriter();
        var err = new StringWriter();
        var words = command.words.toArray(String[]::new);
        int code = commandLine(new Env(command.settings::get, "difyexec", Path.of(command.folder)), words)
                .setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true)).execute(words);
        return new Done(code, out + bytes.toString(UTF_8), err.toString());
    }

    /// @param folder for files of its own, outside of those that are watched
    static FaultyTool start(FaultyDisk disk, Path folder) throws IOException {
        var control = Files.write(folder.resolve("control"), new byte[SIZE]);
        var report = folder.resolve("report");
        var words = Given.Tool.words();
        words.set(words.size() - 1, FaultyTool.class.getName());
        words.addAll(0, disk.preload());
        var builder = new ProcessBuilder(words).directory(folder.toFile())
                .redirectError(ProcessBuilder.Redirect.INHERIT);
        builder.environment().putAll(disk.environment(folder.resolve("none"), report, new Fault("open", 1, 0, 0)));
        builder.environment().put("IOFAULT_CONTROL", control.toString());
        var process = builder.start();
        var answers = process.inputReader(UTF_8);
        if (answers.readLine() == null) throw new IOException("the process for the commands did not start");
        return new FaultyTool(process, answers, control, report);
    }

    /// Runs a command with a fault on a file, or on a folder and what is in it. Empty: it ended before it met the fault.
    Optional<Done> run(Path watched, Fault fault, Command command) throws IOException {
        Files.deleteIfExists(report);
        control(1, watched, fault);
        var input = process.outputWriter(UTF_8);
        input.write(JSON.writeValueAsString(command) + "\n");
        input.flush();
        var answer = answers.readLine();
        control(0, watched, fault);
        if (answer == null) throw new IOException("the process for the commands has ended");
        return Files.exists(report) ? Optional.of(JSON.readValue(answer, Done.class)) : Optional.empty();
    }

    private void control(int isOn, Path watched, Fault fault) throws IOException {
        var bytes = ByteBuffer.allocate(SIZE).order(ByteOrder.nativeOrder()).putInt(isOn)
                .putInt(CALLS.indexOf(fault.call())).putInt(fault.errno()).putInt(0)
                .putLong(fault.from()).putLong(fault.until()).putLong(0);
        var path = watched.toString().getBytes(UTF_8);
        if (path.length >= LONGEST) throw new IllegalArgumentException("too long: " + watched);
        Files.write(control, bytes.put(path).array(), StandardOpenOption.WRITE);
    }

    @Override
    public void close() throws IOException {
        process.destroyForcibly().onExit().join();
        answers.close();
    }
}
