///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Makes the small batches of tests/batches with this version of the tool.
//SOURCES ../../DifyExec.java
//SOURCES Simulator.java
//SOURCES FrozenBatch.java
//SOURCES Given.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.node.*;
import difyexec.Simulator.Setup;
import picocli.CommandLine;
import picocli.CommandLine.*;

import module java.base;

import static difyexec.DifyExec.*;

/// Leaves a dozen batches of this version in `tests/batches/VERSION`, with Dify's records of their runs, and writes
/// down what the next commands of this version make of each. Every later version has to make the same of them, see
/// `BatchesTest`. Run it before a release, read the outcomes in each `batch.json`, and commit the folder.
@Command(name = "freeze", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Make the batches of tests/batches/VERSION with this version of the tool.",
        footer = {"", "Example: ./jbang tests/support/FreezeBatches.java --into tests/batches/0.5.0"})
final class FreezeBatches implements Callable<Integer> {
    private static final ObjectWriter PRETTY = Given.JSON.writerWithDefaultPrettyPrinter();

    @Option(names = "--into", paramLabel = "DIR", required = true, description = "Make a folder for each batch here.")
    Path into;

    @Option(names = "--only", paramLabel = "WORD", description = "Only batches whose name contains this word.")
    String only = "";

    @Option(names = "--complete", description = "Make no batches: follow those in DIR again, and add what their "
            + "outcomes lack. Facts that are there stay.")
    boolean isCompleting;

    static void main(String... args) {
        DifyExec.setProperties();
        System.exit(new CommandLine(new FreezeBatches()).execute(args));
    }

    @FunctionalInterface interface Making {
        void make(Scene scene) throws Exception;
    }

    @Override
    public Integer call() throws Exception {
        if (isCompleting) {
            for (var batch : FrozenBatch.in(into)) if (batch.toString().contains(only)) complete(batch);
            return 0;
        }
        killedBlocking();
        killedStreaming();
        killedAfterTheLastStream();
        killedOnOldServer();
        interrupted();
        paused();
        expired();
        failed();
        required();
        chatflow();
        chat();
        agentChat();
        agent();
        completion();
        edited();
        shards();
        sample();
        mapped();
        cutResults();
        lostResults();
        changedRows();
        killedRerun();
        return 0;
    }

    // ── Killed ──────────────────────────────────────────────────────────────────────────────────────────────────────

    private void killedBlocking() throws Exception {
        freeze("killed-blocking", "1.16.1", "workflow", scene -> {
            scene.about("Killed while rows 4 to 7 ran. Dify's records: run 4 succeeded, 5 failed, 6 never started, 7 "
                    + "still runs. Rows 8 and 9 were not sent.");
            scene.csv("id,text", "1,one", "2,two", "3,[fail] three", "4,[latency 60m] four",
                    "5,[latency 60m][fail] five", "6,[latency 120m][lost] six", "7,[never] seven", "8,eight", "9,nine");
            scene.killed("run --mode blocking -c 4 --timeout 1h", () -> scene.isAt(2, 7));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
            scene.next("PT1M", "run --settle 1s --timeout 10s --resend-unknown");
            scene.next("PT192H", "run --settle 1s --timeout 10s");
        });
    }

    private void killedStreaming() throws Exception {
        freeze("killed-streaming", "1.16.1", "workflow", scene -> {
            scene.about("Killed while rows 3 to 5 ran. Dify's records: run 3 succeeded, 4 never started and had no "
                    + "event, 5 failed. Row 6 was not sent.");
            scene.csv("id,text", "1,one", "2,two", "3,[latency 60m] three", "4,[queue 120m] four",
                    "5,[latency 60m][fail] five", "6,six");
            scene.killed("run --mode streaming -c 3 --timeout 1h", () -> scene.isAt(2, 5) && scene.began() == 4);
            scene.next("PT1M", "run --mode streaming --settle 1s");
        });
    }

    private void killedAfterTheLastStream() throws Exception {
        freeze("killed-after-the-last-stream", "1.16.1", "workflow", scene -> {
            scene.about("Killed while row 2, a stream, had no event. The stream of row 3, sent 0.4 s later, had "
                    + "started and ended before; streams may overtake each other within a second. No row is left to be "
                    + "sent.");
            scene.csv("id,text", "1,one", "2,[queue 120m] two", "3,three");
            scene.killed("run --mode streaming -c 2 --timeout 1h", () -> scene.isAt(2, 3));
            scene.next("PT1M", "run --mode streaming --settle 1s --timeout 10s");
        });
    }

    private void killedOnOldServer() throws Exception {
        freeze("killed-on-1.9.2", "1.9.2", "workflow", scene -> {
            scene.about("Killed while rows 2 and 3 ran on a Dify that lists a run only at its end: 2 has succeeded "
                    + "since, 3 is not listed. Row 4 was not sent.");
            scene.csv("id,text", "1,one", "2,[latency 60m] two", "3,[never] three", "4,four");
            scene.killed("run --mode blocking -c 2 --timeout 1h", () -> scene.isAt(1, 3));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
            scene.next("PT1M", "run --settle 1s --timeout 10s", "run --timeout 10s", "retry 3 --timeout 10s");
        });
    }

    private void interrupted() throws Exception {
        freeze("interrupted", "1.16.1", "workflow", scene -> {
            scene.about("Stopped by SIGTERM without a grace period: run 2 was asked to stop and stopped; row 3 was "
                    + "not sent.");
            scene.csv("id,text", "1,one", "2,[latency 60m] two", "3,three");
            var process = scene.start("run --mode streaming -c 1 --grace 0");
            scene.until(() -> scene.isAt(1, 2) && scene.began() == 2);
            process.destroy();
            process.waitFor();
            scene.next("PT1M", "run --mode streaming --settle 1s --timeout 10s");
        });
    }

    // ── Rows that need attention ────────────────────────────────────────────────────────────────────────────────────

    private void paused() throws Exception {
        freeze("paused", "1.16.1", "asking workflow", scene -> {
            scene.about("All rows waited for a person. The form of row 1 was answered, and its result was taken. The "
                    + "form of row 2 was answered since.");
            scene.csv("id,text", "1,one", "2,two", "3,three");
            scene.run("run --mode streaming -c 1 --settle 1s");
            scene.answer("1");
            scene.run("run --mode streaming --settle 1s");
            scene.answer("2");
            scene.next("PT1M", "run --mode streaming --settle 1s");
            scene.next("PT1M", "retry 3 --mode streaming --settle 1s");
        });
    }

    private void expired() throws Exception {
        freeze("form-expired", "1.16.1", "asking workflow", scene -> {
            scene.about("All rows waited for a person. The form of row 1 was answered since, that of row 2 expired "
                    + "before its run ended. Row 3 still waits.");
            scene.csv("id,text", "1,one", "2,two", "3,three");
            scene.run("run --mode streaming -c 1 --settle 1s");
            scene.answer("1");
            scene.answer("2");
            scene.endsLate("2");
            scene.next("PT3H", "run --mode streaming --settle 1s");
            scene.next("PT3H", "run --settle 1s", "retry 3 --mode streaming --settle 1s");
        });
    }

    private void failed() throws Exception {
        freeze("failed", "1.14.2", "workflow", scene -> {
            scene.about("Rows 2 and 4 failed, row 4 after two retries; both are on the retry list. Row 5 succeeded "
                    + "in part.");
            scene.csv("id,text", "1,one", "2,[fail] two", "3,three", "4,[flaky!] four", "5,[partial] five");
            scene.run("run --mode blocking -c 2 --max-retries 2");
            scene.next("PT1M", "run");
            scene.next("PT1M", "retry");
            scene.next("PT1M", "retry 4", "run");
        });
    }

    private void required() throws Exception {
        freeze("required", "1.16.1", "workflow", scene -> {
            scene.about("The runs of rows 2 and 3 succeeded, but their scores failed --require; row 3 was then sent "
                    + "again, and succeeded. Row 4 failed, row 5 was not sent. The app has no score any more, and the "
                    + "log still requires one.");
            scene.csv("id,text", "1,one", "2,[no-output] two", "3,[wrong-output] three", "4,[fail] four", "5,five");
            scene.app.outputScores();
            scene.run("run --mode blocking -c 1 --require /score:number --limit 4");
            scene.run("retry 3");
            scene.next("PT1M", "run");
            scene.next("PT1M", "run --require /answer");
            scene.next("PT1M", "retry 2");
            scene.next("PT1M", "retry 2 --require ''", "run");
        });
    }

    // ── Other kinds of apps ─────────────────────────────────────────────────────────────────────────────────────────

    private void chatflow() throws Exception {
        freeze("chatflow", "1.16.1", "chatflow", scene -> {
            scene.about("Killed while questions 2 to 4 ran. Dify's records: 2 was answered, 3 never arrived, 4 "
                    + "failed. Question 5 was not sent.");
            scene.csv("id,query", "1,one", "2,[latency 60m] two", "3,[latency 120m][lost] three",
                    "4,[latency 60m][fail] four", "5,five");
            scene.killed("run --mode blocking -c 3 --timeout 1h", () -> scene.isAt(1, 4));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
        });
    }

    private void chat() throws Exception {
        freeze("chat", "1.16.1", "chat", scene -> {
            scene.about("Killed while questions 2 to 4 ran. Dify's records: 2 was answered, 3 never arrived, 4 "
                    + "failed. Question 5 was not sent.");
            scene.csv("id,query", "1,one", "2,[latency 60m] two", "3,[latency 120m][lost] three",
                    "4,[latency 60m][fail] four", "5,five");
            scene.killed("run -c 3 --timeout 1h", () -> scene.isAt(1, 4));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
        });
    }

    private void agentChat() throws Exception {
        freeze("agent-chat", "1.16.1", "agent-chat", scene -> {
            scene.about("Killed while the streams of questions 2 to 4 ran. Dify has dropped the answers of 2 and 3, "
                    + "but kept their last thoughts. Question 4 never arrived, 5 was not sent.");
            scene.csv("id,query", "1,tool=search one", "2,[latency 60m] two", "3,tool=search [latency 60m] three",
                    "4,[latency 120m][lost] four", "5,five");
            scene.killed("run -c 3 --timeout 1h", () -> scene.isAt(1, 4));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
        });
    }

    private void agent() throws Exception {
        freeze("agent", "1.16.1", "agent", scene -> {
            scene.about("Killed while the streams of questions 2 and 3 ran. Question 3 never arrived, 4 was not "
                    + "sent.");
            scene.csv("id,query", "1,think one", "2,[latency 60m] two", "3,[latency 120m][lost] three", "4,four");
            scene.killed("run -c 2 --timeout 1h", () -> scene.isAt(1, 3));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
            scene.next("PT1M", "run --settle 1s --timeout 10s --resend-unknown");
        });
    }

    private void completion() throws Exception {
        freeze("completion", "1.16.1", "completion", scene -> {
            scene.about("Row 2 failed. Killed while rows 3 and 4 ran; Dify does not show completions. Row 5 was not "
                    + "sent.");
            scene.csv("id,text", "1,one", "2,[fail] two", "3,[latency 60m] three", "4,[latency 120m][lost] four",
                    "5,five");
            scene.killed("run -c 2 --timeout 1h", () -> scene.isAt(1, 4));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
            scene.next("PT1M", "run --settle 1s --timeout 10s --resend-unknown");
        });
    }

    private void edited() throws Exception {
        freeze("edited", "1.16.1", "workflow", scene -> {
            scene.about("Failed rows 2 and 3 were edited in the shell, but not in the CSV. Row 2 then succeeded. The "
                    + "shell was killed while row 3 ran; its run has succeeded since.");
            scene.csv("id,text", "1,one", "2,[fail] two", "3,[fail] three");
            scene.run("run --mode streaming -c 1");
            scene.feed("set 2 text=zwei\nretry 2\nset 3 \"text=[latency 60m] drei\"\nretry 3\n",
                    () -> scene.isAt(2, 5) && scene.began() == 5);
            scene.next("PT1M", "run --settle 1s --timeout 10s");
        });
    }

    // ── Parts of a batch ────────────────────────────────────────────────────────────────────────────────────────────

    /// Of the ids 1 to 7 in three shards, the first has 6, the second 1 to 4, the third 5 and 7.
    private void shards() throws Exception {
        freeze("shards", "1.16.1", "workflow", scene -> {
            scene.about("Three shards. The second was killed while row 3 ran, which has succeeded since; "
                    + "its row 4 was not sent. Row 7 of the third failed.");
            scene.csv("id,text", "1,one", "2,two", "3,[latency 60m] three", "4,four", "5,five", "6,six",
                    "7,[fail] seven");
            scene.run("run --shard 1/3 --mode blocking");
            scene.killed("run --shard 2/3 --mode blocking -c 1", () -> scene.isAt("results.2-of-3.jsonl", 2, 3)
                    && scene.app.count("users") == 4);
            scene.run("run --shard 3/3 --mode blocking");
            scene.next("PT1M", "run --shard 2/3 --settle 1s --timeout 10s", "run --shard 3/3");
            scene.next("PT1M", "retry 7 -o results.3-of-3.jsonl");
            scene.next("PT1M", "run");
            scene.next("PT1M", "run --shard 1/4");
        });
    }

    private void sample() throws Exception {
        freeze("sample", "1.16.1", "workflow", scene -> {
            scene.about("Three rows were chosen at random and run.");
            scene.csv("id,text", "1,one", "2,two", "3,three", "4,four", "5,five", "6,six", "7,seven", "8,eight");
            scene.run("run --sample 3 --seed 7 --mode streaming");
            scene.next("PT1M", "run");
        });
    }

    private void mapped() throws Exception {
        freeze("mapped", "1.16.1", "workflow", scene -> {
            scene.about("The log remembers a mapped column, a constant and that rows are numbered. Two of four rows "
                    + "were run.");
            scene.csv("Frage;Notiz", "one;x", "two;y", "three;z", "four;");
            scene.run("run --mode blocking --id-column # --map Frage=text --var lang=de --limit 2");
            scene.next("PT1M", "run");
        });
    }

    // ── Changed files ───────────────────────────────────────────────────────────────────────────────────────────────

    private void cutResults() throws Exception {
        freeze("results-cut", "1.16.1", "workflow", scene -> {
            scene.about("The results were cut within the line of row 3, and the line of row 4 is gone.");
            scene.csv("id,text", "1,one", "2,two", "3,three", "4,four", "5,[fail] five");
            scene.run("run --mode blocking -c 1");
            var lines = Files.readAllLines(scene.file("results.jsonl"));
            Files.writeString(scene.file("results.jsonl"), lines.get(0) + "\n" + lines.get(1) + "\n"
                    + lines.get(2).substring(0, 150));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
        });
    }

    private void lostResults() throws Exception {
        freeze("results-lost", "1.16.1", "workflow", scene -> {
            scene.about("The results are gone, and Dify has deleted run 2. Row 4 was not sent.");
            scene.csv("id,text", "1,one", "2,two", "3,three", "4,four");
            scene.run("run --mode streaming -c 1 --limit 3");
            Files.delete(scene.file("results.jsonl"));
            scene.forgets("2");
            scene.next("PT1M", "run --settle 1s --timeout 10s");
        });
    }

    private void changedRows() throws Exception {
        freeze("changed-rows", "1.16.1", "workflow", scene -> {
            scene.about("Row 1 was changed after it succeeded, row 2 after it failed; row 3 was removed and row 4 "
                    + "was added.");
            scene.csv("id,text", "1,one", "2,[fail] two", "3,three");
            scene.run("run --mode blocking -c 1");
            scene.csv("id,text", "1,one!", "2,two!", "4,four");
            scene.next("PT1M", "run");
            scene.next("PT1M", "run --rerun-changed", "retry");
        });
    }

    private void killedRerun() throws Exception {
        freeze("killed-rerun", "1.16.1", "workflow", scene -> {
            scene.about("Rows 2 and 3 were changed after they succeeded, and run again. Killed while these runs were "
                    + "active. Dify's records: both succeeded.");
            scene.csv("id,text", "1,one", "2,two", "3,three", "4,four");
            scene.run("run --mode blocking -c 1");
            scene.csv("id,text", "1,one", "2,[latency 60m] two", "3,[latency 60m] three", "4,four");
            scene.killed("run --mode blocking -c 2 --timeout 1h --rerun-changed", () -> scene.isAt(4, 6));
            scene.next("PT1M", "run --settle 1s --timeout 10s");
            scene.next("PT1M", "run --settle 1s --timeout 10s --rerun-changed");
        });
    }

    // ── Making ──────────────────────────────────────────────────────────────────────────────────────────────────────

    private void freeze(String name, String dify, String app, Making making) throws Exception {
        if (!name.contains(only)) return;
        var folder = Files.createTempDirectory("difyexec-freeze");
        try (var scene = new Scene(folder, dify, app)) {
            making.make(scene);
            var home = Files.createDirectories(into.resolve(name));
            scene.save(home);
            complete(FrozenBatch.of(home));
        }
    }

    /// Writes down what the next commands make of a batch. The last list of commands is empty: the batch as it was
    /// left.
    private static void complete(FrozenBatch batch) throws Exception {
        boolean isShown = batch.next().stream().anyMatch(next -> next.path("commands").isEmpty());
        var all = (ArrayNode) batch.description().path("next");
        if (!isShown) all.addObject().put("after", "PT1M").putArray("commands");
        for (var next : batch.next()) {
            var copy = Files.createTempDirectory("difyexec-frozen");
            ObjectNode outcome = Given.JSON.valueToTree(batch.follow(next, copy, FreezeBatches::tool, _ -> {}));
            boolean isChanged = next.at("/later/inForce").asBoolean();
            var known = ((ObjectNode) next).withObject(isChanged ? "/later/outcome" : "/outcome");
            outcome.propertyStream().filter(fact -> !known.has(fact.getKey()))
                    .forEach(fact -> known.set(fact.getKey(), fact.getValue()));
            IO.println(batch + " " + next.path("commands") + ": " + known);
        }
        Files.writeString(batch.home().resolve(FrozenBatch.DESCRIPTION),
                PRETTY.writeValueAsString(batch.description()) + "\n");
    }

    /// Runs the tool in this process.
    private static FrozenBatch.Said tool(Map<String, String> settings, String... args) {
        StringWriter shown = new StringWriter(), out = new StringWriter();
        int code = commandLine(Given.env(settings), args).setOut(new PrintWriter(out, true))
                .setErr(new PrintWriter(shown, true)).execute(args);
        IO.println("  " + args[0] + " " + code + ": " + (shown + "" + out).replace("\n", "\n    "));
        return new FrozenBatch.Said(code, out.toString());
    }

    /// A folder with a batch, and its simulated server.
    static final class Scene implements AutoCloseable {
        private static final Setup ASKING = new Setup("simulated", Optional.of(SimulatedGraph.asking(false)),
                Setup.Kind.WORKFLOW, _ -> true);

        private final Path folder;
        private final ObjectNode description = Given.JSON.createObjectNode();
        private final Set<String> forgotten = new HashSet<>(), late = new HashSet<>();
        private final SimulatedServer server;
        private final Setup.Kind kind;
        final SimulatedDify app;

        @FunctionalInterface interface Condition {
            boolean holds() throws IOException;
        }

        Scene(Path folder, String dify, String app) throws IOException {
            this.folder = folder;
            boolean isAsking = app.startsWith("asking ");
            var simulator = Simulator.of("--dify", dify, "--app", app.replace("asking ", ""), "--latency", "20ms",
                    "--columns", app.matches(".*chat.*|agent") ? "id" : "id,text,lang");
            this.kind = simulator.app;
            this.app = new SimulatedDify(simulator.behaviour(), isAsking ? ASKING : Setup.PLAIN.with(kind));
            server = SimulatedServer.start(0, 0, this.app);
            description.put("tool", NAME_AND_VERSION).put("about", "").put("dify", dify)
                    .put("app", kind.word())
                    .put("columns", String.join(",", simulator.columns))
                    .put("base_url", server.baseUrl().toString()).putArray("next");
        }

        void about(String text) {
            description.put("about", text);
        }

        void next(String after, String... commands) {
            var next = description.withArray("next").addObject().put("after", after);
            next.set("commands", Given.JSON.valueToTree(commands));
        }

        Path file(String name) {
            return folder.resolve(name);
        }

        void csv(String... lines) throws IOException {
            Files.writeString(file("data.csv"), String.join("\n", lines) + "\n");
        }

        void run(String command) throws Exception {
            int code = start(command).waitFor();
            if (code != 0 && code != 3) throw new IllegalStateException(command + " ends with " + code);
        }

        Process start(String command) throws IOException {
            var words = new ArrayList<>(Given.Tool.words());
            words.addAll(List.of(FrozenBatch.words(command, Path.of(""))));
            var builder = new ProcessBuilder(words).directory(folder.toFile())
                    .redirectOutput(Files.createTempFile("difyexec-freeze", ".out").toFile())
                    .redirectErrorStream(true);
            builder.environment().putAll(FrozenBatch.settings(server.baseUrl().toString(), folder));
            return builder.start();
        }

        /// Kills the tool when the condition holds.
        void killed(String command, Condition condition) throws Exception {
            var process = start(command);
            until(condition);
            process.destroyForcibly().waitFor();
        }

        /// Types lines into the shell, which is killed when the condition holds.
        void feed(String lines, Condition condition) throws Exception {
            var shell = start("shell");
            try (var in = shell.outputWriter()) {
                in.write(lines);
                in.flush();
                until(condition);
                shell.destroyForcibly().waitFor();
            } catch (IOException _) {
                // the killed shell no longer reads
            }
        }

        void until(Condition condition) throws Exception {
            for (long end = System.nanoTime() + 60_000_000_000L; !condition.holds(); Thread.sleep(20))
                if (System.nanoTime() > end) throw new IllegalStateException("not reached within a minute");
        }

        boolean isAt(int results, int attempts) throws IOException {
            return isAt("results.jsonl", results, attempts);
        }

        /// Whether there are so many results, attempts, and requests of these attempts.
        boolean isAt(String name, int results, int attempts) throws IOException {
            return lines(name, "\"status\":\"success\"") == results
                    && lines(name + ".log", "\"event\":\"attempt\"") == attempts
                    && app.count("users") >= attempts;
        }

        long began() throws IOException {
            return lines("results.jsonl.log", "\"event\":\"run\"");
        }

        private long lines(String name, String part) throws IOException {
            if (!Files.exists(file(name))) return 0;
            return Files.readString(file(name)).lines().filter(line -> line.contains(part)).count();
        }

        /// A person answers the form of this row, whose run then succeeds.
        void answer(String row) {
            app.ledger().all().filter(job -> job.row.equals(row)).forEach(job -> job.resume("fine"));
        }

        /// Dify has deleted the runs of this row.
        void forgets(String row) {
            forgotten.add(row);
        }

        /// The run of this row ends two hours later than it did.
        void endsLate(String row) {
            late.add(row);
        }

        /// Saves the files, and Dify's records when all runs have ended that will.
        void save(Path home) throws Exception {
            app.finishRuns();
            until(() -> app.ledger().all().allMatch(job -> job.now().isEmpty() || job.reported.isDone()
                    || job.fate.fault() == Simulator.Fault.NEVER));
            Thread.sleep(1_000); // for the model's own pauses around the end of a run
            try (var files = Files.list(folder)) {
                for (var file : files.filter(Files::isRegularFile).toList())
                    if (!file.toString().endsWith(".lock")) Files.copy(file, home.resolve(file.getFileName()),
                            StandardCopyOption.REPLACE_EXISTING);
            }
            Files.writeString(home.resolve(FrozenBatch.RECORDS), lines(records()));
            Files.writeString(home.resolve(FrozenBatch.DESCRIPTION), PRETTY.writeValueAsString(description) + "\n");
        }

        /// JSON with a line for each run and each list.
        private static String lines(JsonNode records) {
            return records.propertyStream().map(kind -> "\"" + kind.getKey() + "\":{\n" + kind.getValue().propertyStream()
                    .map(one -> "  \"" + one.getKey() + "\":" + one.getValue()).collect(Collectors.joining(",\n"))
                    + "\n}").collect(Collectors.joining(",\n", "{", "}\n"));
        }

        /// Dify's answers about each run and user, as its API gives them.
        private JsonNode records() throws Exception {
            var records = Given.JSON.createObjectNode();
            for (var job : app.ledger().all().sorted(Comparator.comparing(job -> job.taken)).toList()) {
                if (forgotten.contains(job.row)) continue;
                var user = URLEncoder.encode(job.user, StandardCharsets.UTF_8);
                if (!kind.isPlain() && job.now().isPresent()) {
                    var run = (ObjectNode) get("/workflows/run/" + job.now().get().id());
                    if (late.contains(job.row)) run.put("finished_at", run.path("finished_at").asLong() + 7200);
                    records.withObject("/runs").set(job.now().get().id(), run);
                }
                if (kind == Setup.Kind.WORKFLOW) records.withObject("/logs").set(job.user,
                        get("/workflows/logs?limit=100&created_by_end_user_session_id=" + user).path("data"));
                if (kind.isChat()) for (var conversation : conversations(records, job.user))
                    records.withObject("/messages").set(conversation, get("/messages?limit=100&user=" + user
                            + "&conversation_id=" + conversation).path("data"));
            }
            return records;
        }

        private List<String> conversations(ObjectNode records, String user) throws Exception {
            var all = get("/conversations?limit=100&user=" + URLEncoder.encode(user, StandardCharsets.UTF_8))
                    .path("data");
            records.withObject("/conversations").set(user, all);
            return all.valueStream().map(one -> one.path("id").asText()).toList();
        }

        private JsonNode get(String path) throws Exception {
            var connection = URI.create(server.baseUrl() + path).toURL().openConnection();
            connection.setRequestProperty("Authorization", "Bearer " + FrozenBatch.KEY);
            try (var in = connection.getInputStream()) {
                return Given.JSON.readTree(in);
            }
        }

        @Override
        public void close() throws IOException {
            server.close();
        }
    }
}
