package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.github.tomakehurst.wiremock.WireMockServer;
import com.github.tomakehurst.wiremock.client.*;
import com.sun.net.httpserver.*;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.*;

import module java.base;

import static difyexec.DifyExec.*;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static com.github.tomakehurst.wiremock.core.WireMockConfiguration.options;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Shared by tests of whole commands: a folder, a server with scripted answers, and a call. Each has its own, so that
/// several can run at once: they mostly wait. Every call is searched for the key.
@Execution(ExecutionMode.CONCURRENT)
abstract class WholeCommand {
    static final String KEY = "app-s3cr3t-0f-the-test";

    @TempDir Path folder;

    final List<AutoCloseable> open = new ArrayList<>();

    @AfterEach
    void close() throws Exception {
        for (var each : open.reversed()) each.close();
    }

    static String keys(JsonNode object) {
        return object.properties().stream().map(Map.Entry::getKey).collect(Collectors.joining(" "));
    }

    /// With short waits before retries. `more` are names and values in turn.
    static Map<String, String> settingsFor(URI url, String... more) {
        var settings = new HashMap<>(Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", url.toString(),
                "INITIAL_RETRY_DELAY", "10ms", "MAX_RETRY_DELAY", "20ms"));
        for (int i = 0; i < more.length; i += 2) settings.put(more[i], more[i + 1]);
        return settings;
    }

    /// The result of one call. Its checks return the call, so that one follows the other.
    record Call(int code, String out, String err) {
        Call {
            out = out.replace("\r\n", "\n"); // Windows ends lines so
            err = err.replace("\r\n", "\n");
        }

        Call exits(int code) {
            assertEquals(code, this.code, this::toString);
            return this;
        }

        /// Checks that each of these is in the text on standard error.
        Call says(String... facts) {
            return contains(err, facts);
        }

        /// Checks that each of these is in the text on standard output.
        Call shows(String... facts) {
            return contains(out, facts);
        }

        /// Checks that each of these is in the text on standard output or on standard error.
        Call mentions(String... facts) {
            return contains(out + err, facts);
        }

        /// Checks that there is one error, and that each of these is in its sentence or its hint.
        Call reports(String... facts) {
            return contains(sentence(), facts);
        }

        /// Checks that there is one hint, and that each of these is in it.
        Call hints(String... facts) {
            return contains(hint().orElseThrow(() -> new AssertionError("no hint in " + this)), facts);
        }

        /// Checks that none of these is in any text.
        Call omits(String... words) {
            for (var word : words) assertFalse((out + err).contains(word), () -> "has \"" + word + "\": " + this);
            return this;
        }

        /// The command that is suggested as the next one, without the name of the tool.
        String next() {
            var lines = (out + err).lines().filter(line -> line.startsWith("Next: difyexec ")).toList();
            assertEquals(1, lines.size(), this::toString);
            return lines.getFirst().substring("Next: difyexec ".length());
        }

        List<String> notes() {
            return (out + err).lines().filter(line -> line.startsWith("Note: ")).toList();
        }

        /// Checks that no text can act on a terminal.
        Call isSafeOnATerminal() {
            assertTrue((out + err).codePoints().noneMatch(c -> c != '\n' && (Character.isISOControl(c)
                    || Character.getType(c) == Character.FORMAT || c == 0x2028 || c == 0x2029)), this::toString);
            return this;
        }

        Call saysNothing() {
            assertEquals("", err);
            return this;
        }

        Call showsNothing() {
            assertEquals("", out);
            return this;
        }

        private Call contains(String text, String... facts) {
            for (var fact : facts) assertTrue(text.contains(fact), () -> "lacks \"" + fact + "\": " + this);
            return this;
        }

        /// The error in its own line, and the hint in another.
        String sentence() {
            return err.lines().filter(line -> line.startsWith("difyexec: ") || line.startsWith("Stopped: "))
                    .reduce((_, _) -> "more than one sentence").orElse("none")
                    + hint().map(hint -> "\nhint: " + hint).orElse("");
        }

        Optional<String> hint() {
            return err.lines().filter(line -> line.startsWith("hint: ")).map(line -> line.substring(6))
                    .reduce((_, _) -> "more than one hint");
        }
    }

    Call call(Map<String, String> settings, String... args) throws IOException {
        return call(Given.env(settings), args);
    }

    Call call(Env env, String... args) throws IOException {
        var out = new StringWriter();
        var err = new StringWriter();
        int code = commandLine(env, args).setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true))
                .execute(args);
        var call = new Call(code, out.toString(), err.toString());
        keyIsNowhere(call);
        return call;
    }

    /// A line that is typed into a shell in this process. Its whole output counts as shown.
    Call inShell(Map<String, String> settings, String line, String... options) throws IOException {
        var shown = new StringWriter();
        var outer = commandLine(Given.env(settings));
        outer.setOut(new PrintWriter(shown, true)).setErr(new PrintWriter(shown, true));
        outer.parseArgs(words(List.of("shell", "-i", input(), "-o", output()), options));
        Shell shell = outer.getSubcommands().get("shell").getCommand();
        int code = shell.session().execute(line);
        var call = new Call(code, shown.toString(), "");
        keyIsNowhere(call);
        return call;
    }

    /// A command that needs no server, with the files of the batch.
    Call ofBatch(String command, String... more) throws IOException {
        return call(Map.of("NO_COLOR", "1"), words(List.of(command, "-i", input(), "-o", output()), more));
    }

    void keyIsNowhere(Call call) throws IOException {
        isNowhere(KEY, call);
    }

    void isNowhere(String secret, Call call) throws IOException {
        assertFalse((call.out() + call.err()).contains(secret), call::toString);
        try (var files = Files.walk(folder)) {
            for (var file : files.filter(Files::isRegularFile).filter(path -> !path.endsWith(".env")).toList())
                assertFalse(Files.readString(file, StandardCharsets.ISO_8859_1).contains(secret), file::toString);
        }
    }

    Path file(String name) {
        return folder.resolve(name);
    }

    String path(String name) {
        return file(name).toString();
    }

    String input() {
        return path("data.csv");
    }

    String output() {
        return path("results.jsonl");
    }

    Path csv(String... lines) throws IOException {
        return Files.writeString(file("data.csv"), String.join("\n", lines) + "\n");
    }

    /// The header of a CSV for a workflow or a chatflow.
    static String header(String app) {
        return app.equals("chatflow") ? "id,query" : "id,text";
    }

    /// Rows `1` to `count`.
    Path rows(int count) throws IOException {
        var rows = IntStream.rangeClosed(1, count).mapToObj(id -> id + ",text " + id);
        return csv(Stream.concat(Stream.of("id,text"), rows).toArray(String[]::new));
    }

    /// `run -i data.csv -o results.jsonl` plus further arguments.
    String[] typed(String command, String... more) {
        return words(List.of(command, "-i", input(), "-o", output(), "--progress", "off"), more);
    }

    static String[] words(List<String> first, String... more) {
        return Stream.concat(first.stream(), Stream.of(more)).toArray(String[]::new);
    }

    /// Splits a suggested command into the words after `difyexec`, as a shell does.
    static String[] split(String command) throws IOException {
        if (File.separatorChar == '\\') return Pattern.compile("\"((?:\\\\\"|[^\"])*)\"|\\S+").matcher(command).results()
                .map(word -> word.group(1) == null ? word.group() : word.group(1).replace("\\\"", "\""))
                .dropWhile("difyexec"::equals).toArray(String[]::new);
        var shell = new ProcessBuilder("sh", "-c", "printf '%s\\n' " + command).start();
        return new String(shell.getInputStream().readAllBytes(), UTF_8).lines()
                .dropWhile("difyexec"::equals).toArray(String[]::new);
    }

    String content(String name) throws IOException {
        return Files.exists(file(name)) ? Files.readString(file(name)) : "";
    }

    /// Counts the files that this process holds open and whose path or content has this text. They may be deleted.
    static long openFilesWith(String text) throws IOException {
        var open = Path.of("/proc/self/fd");
        Assumptions.assumeTrue(Files.isDirectory(open), "the system does not show open files");
        try (var files = Files.list(open)) {
            return files.filter(file -> {
                try {
                    return Files.readSymbolicLink(file).toString().contains(text)
                            || Files.isRegularFile(file) && Files.size(file) < 1_000_000
                                    && Files.readString(file, StandardCharsets.ISO_8859_1).contains(text);
                } catch (IOException _) {
                    return false; // closed by now
                }
            }).count();
        }
    }

    void append(String name, String text) throws IOException {
        Files.writeString(file(name), text, StandardOpenOption.APPEND);
    }

    /// Replaces a part of a file, which must be there.
    void replace(String name, String part, String by) throws IOException {
        assertTrue(content(name).contains(part), () -> name + " lacks " + part);
        Files.writeString(file(name), content(name).replace(part, by));
    }

    /// The contents of all files in the folder.
    Map<String, String> contents() throws IOException {
        var contents = new TreeMap<String, String>();
        for (var name : names()) contents.put(name, Files.isRegularFile(file(name))
                ? Files.readString(file(name), StandardCharsets.ISO_8859_1) : "no file");
        return contents;
    }

    List<JsonNode> read(String name) throws IOException {
        var lines = new ArrayList<JsonNode>();
        for (var line : content(name).replace("\uFEFF", "").lines().toList())
            if (!line.isBlank()) lines.add(tree(line));
        return lines;
    }

    List<JsonNode> results() throws IOException {
        return read("results.jsonl");
    }

    List<String> ids() throws IOException {
        return results().stream().map(line -> line.path("id").asText()).sorted().toList();
    }

    JsonNode result(String id) throws IOException {
        return results().stream().filter(line -> line.path("id").asText().equals(id)).toList().getLast();
    }

    List<JsonNode> events(String event) throws IOException {
        return read("results.jsonl.log").stream().filter(line -> line.path("event").asText().equals(event)).toList();
    }

    /// The user of a row's first attempt.
    String user(String id) throws IOException {
        return events("attempt").stream().filter(attempt -> attempt.path("id").asText().equals(id)).findFirst()
                .orElseThrow().path("user").asText();
    }

    /// The ids of the attempts since the session with this number, from 1.
    List<String> attempts(int session) throws IOException {
        var ids = new ArrayList<String>();
        int sessions = 0;
        for (var line : read("results.jsonl.log")) {
            if (line.path("event").asText().equals("session")) sessions++;
            if (sessions >= session && line.path("event").asText().equals("attempt")) ids.add(line.path("id").asText());
        }
        return ids.stream().sorted().toList();
    }

    /// The status of the batch as its log and results show it, without the CSV.
    JsonNode statusJson() throws IOException {
        return tree(call(Map.of(), "status", "--json", "-o", output()).out());
    }

    /// `succeeded=2 pending=1`, without zeros.
    String status() throws IOException {
        var json = tree(ofBatch("status", "--json").out());
        return Stream.of("succeeded", "partial", "failed", "paused", "unknown", "pending")
                .filter(word -> json.path(word).asInt() > 0).map(word -> word + "=" + json.path(word).asInt())
                .collect(Collectors.joining(" "));
    }

    Set<String> names() throws IOException {
        try (var files = Files.list(folder)) {
            return files.map(path -> path.getFileName().toString()).collect(Collectors.toCollection(TreeSet::new));
        }
    }

    /// Commands that use a server, with the files of the batch.
    abstract class Server {
        abstract Map<String, String> settings(String... more);

        Call run(String... more) throws IOException {
            return command("run", more);
        }

        Call command(String command, String... more) throws IOException {
            return call(settings(), typed(command, more));
        }

        Call check(String... more) throws IOException {
            return call(settings(), words(List.of("check", "-i", input()), more));
        }

        /// A command with more arguments, as it is typed.
        Call line(String typed) throws IOException {
            var words = typed.split(" ");
            return command(words[0], Arrays.copyOfRange(words, 1, words.length));
        }
    }

    /// A Dify of one version, played by WireMock: every row succeeds with its id as output unless a test changes that.
    final class Dify extends Server implements AutoCloseable {
        final WireMockServer server = new WireMockServer(options().dynamicPort().bindAddress("127.0.0.1"));
        final String version, mode;
        private int scenarios = 0;

        Dify(String version, String mode) {
            this.version = version;
            this.mode = mode;
            server.start();
            open.add(this);
            info(answer(200, json("{'name':'echo','description':'','tags':[],'mode':'workflow'}")));
            form("[{'text-input':{'variable':'id'}},{'paragraph':{'variable':'text'}}]");
            server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(answer(200, "{\"data\":[]}")));
            server.stubFor(get(urlPathMatching("/v1/workflows/run/.*")).willReturn(version.equals("1.9.2")
                    ? answer(200, "{\"id\":null,\"status\":null}")
                    : refused(404, "not_found", "Workflow run not found.")));
            server.stubFor(post(urlPathEqualTo("/v1/workflows/run")).atPriority(9).willReturn(ended("succeeded", "")));
        }

        String url() {
            return "http://127.0.0.1:" + server.port() + "/v1";
        }

        @Override
        Map<String, String> settings(String... more) {
            return settingsFor(URI.create(url()), more);
        }

        @Override
        Call command(String command, String... more) throws IOException {
            var typed = new ArrayList<>(List.of(typed(command, more)));
            if (!typed.contains("--mode")) typed.addAll(List.of("--mode", mode));
            return call(settings(), typed.toArray(String[]::new));
        }

        /// @param fields with `'` instead of `"`
        void form(String fields) {
            server.stubFor(get(urlEqualTo("/v1/parameters"))
                    .willReturn(answer(200, "{\"user_input_form\":" + json(fields) + "}")));
        }

        void info(ResponseDefinitionBuilder answer) {
            server.stubFor(get(urlEqualTo("/v1/info")).willReturn(answer));
        }

        /// All answers to a row, in order; the last one repeats.
        void row(String id, ResponseDefinitionBuilder... answers) {
            inTurn(() -> ofRow(id), answers);
        }

        /// All answers to a request, in order; the last one repeats.
        void inTurn(Supplier<MappingBuilder> request, ResponseDefinitionBuilder... answers) {
            var scenario = "scenario " + ++scenarios;
            for (int i = 0; i <= answers.length; i++) {
                var stub = request.get().inScenario(scenario).whenScenarioStateIs(i == 0 ? "Started" : "answer " + i);
                if (i < answers.length) stub.willSetStateTo("answer " + (i + 1));
                server.stubFor(stub.atPriority(1).willReturn(answers[Math.min(i, answers.length - 1)]));
            }
        }

        private MappingBuilder ofRow(String id) {
            return post(urlPathMatching("/v1/workflows/(.+/)?run"))
                    .withRequestBody(matchingJsonPath("$.inputs.id", equalTo(id)));
        }

        void rows(ResponseDefinitionBuilder answer) {
            server.stubFor(post(urlPathMatching("/v1/workflows/(.+/)?run")).atPriority(3).willReturn(answer));
        }

        /// The server's record of a row's run, whatever its user.
        void recorded(String id, String status) {
            server.stubFor(get(urlEqualTo("/v1/workflows/run/run-" + id)).willReturn(record(id, status)));
        }

        /// The run succeeded at that second.
        void recorded(String id, long finished) {
            server.stubFor(get(urlEqualTo("/v1/workflows/run/run-" + id)).willReturn(answer(200, json("{'id':'run-%s',"
                    + "'workflow_id':'w','status':'succeeded','outputs':{},'error':null,'elapsed_time':2.5,"
                    + "'total_tokens':3,'total_steps':3,'finished_at':%s}", id, finished))));
        }

        ResponseDefinitionBuilder record(String id, String status) {
            return answer(200, json("{'id':'run-%s','workflow_id':'w','status':'%s',"
                    + "'outputs':{'row_id':'%s','from':'record'},'error':null,"
                    + "'elapsed_time':2.5,'total_tokens':3,'total_steps':3}", id, status, id));
        }

        /// The log leads from the user of the one row that was sent to its run.
        void listed(String id) {
            server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(logged(id)));
        }

        void listed(String id, String user) {
            server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).withQueryParam("created_by_end_user_session_id",
                    equalTo(user)).willReturn(logged(id)));
        }

        ResponseDefinitionBuilder logged(String id) {
            return answer(200, json("{'data':[{'workflow_run':{'id':'run-%s','status':'running'},'created_by_end_user':"
                    + "{'session_id':'{{request.query.created_by_end_user_session_id}}'}}]}", id));
        }

        ResponseDefinitionBuilder answer(int status, String body) {
            return aResponse().withStatus(status).withHeader("Content-Type", "application/json")
                    .withHeader("X-Version", version).withBody(body).withTransformers("response-template");
        }

        ResponseDefinitionBuilder refused(int status, String code, String message) {
            return answer(status, Given.JSON.createObjectNode().put("code", code).put("message", message)
                    .put("status", status).toString());
        }

        /// A completed run, reported as the mode does. It is that of the row, if the form has the id.
        ResponseDefinitionBuilder ended(String status, String error) {
            var id = "{{jsonPath request.body '$.inputs.id' default=(jsonPath request.body '$.user')}}";
            var data = "{\"id\":\"run-" + id + "\",\"workflow_id\":\"w\",\"status\":\"" + status + "\",\"outputs\":"
                    + (status.contains("succeeded") ? "{\"row_id\":\"" + id + "\"}" : "{}") + ",\"error\":"
                    + (error.isEmpty() ? "null" : "\"" + error + "\"")
                    + ",\"elapsed_time\":0.5,\"total_tokens\":10,\"total_steps\":3}";
            var run = "\"workflow_run_id\":\"run-" + id + "\",\"task_id\":\"task-" + id + "\",\"data\":";
            if (mode.equals("blocking")) return answer(200, "{" + run + data + "}");
            var last = status.equals("paused") ? "workflow_paused" : "workflow_finished";
            return stream("data: {\"event\":\"workflow_started\"," + run + "{\"id\":\"run-" + id + "\"}}\n\n"
                    + "data: {\"event\":\"" + last + "\"," + run + data + "}\n\n");
        }

        /// A successful run, in a stream that reports its cost.
        ResponseDefinitionBuilder paid(String price, String currency) {
            return stream(Stream.of(
                    "workflow_started','data':{}",
                    "node_finished','data':{'execution_metadata':{'total_price':'" + price + "','currency':'"
                            + currency + "'}}",
                    "workflow_finished','data':{'status':'succeeded','outputs':{},'total_tokens':7,'total_steps':3}")
                    .map(event -> json("data: {'workflow_run_id':'RUN','task_id':'t','event':'" + event + "}\n\n"))
                    .collect(Collectors.joining()).replace("RUN", "run-{{jsonPath request.body '$.inputs.id' "
                            + "default=(jsonPath request.body '$.user')}}"));
        }

        ResponseDefinitionBuilder stream(String events) {
            return answer(200, "event: ping\n\n" + events)
                    .withHeader("Content-Type", "text/event-stream; charset=utf-8");
        }

        int runs() {
            return server.findAll(postRequestedFor(urlPathMatching("/v1/workflows/(.+/)?run"))).size();
        }

        int requests() {
            return server.getAllServeEvents().size();
        }

        @Override
        public void close() {
            server.stop();
        }
    }

    Dify dify() {
        return new Dify("1.14.2", "blocking");
    }

    /// A Dify that the simulator plays. It counts requests and runs.
    final class Simulated extends Server {
        final SimulatedDify app;
        final SimulatedServer server;
        final Queue<SimulatedExchange> requests = new ConcurrentLinkedQueue<>();

        /// @param options those of the simulator
        Simulated(String... options) {
            this(SimulatedDify.of(options));
        }

        /// Throws no checked exception, so that a field of a test can be a server.
        Simulated(SimulatedDify app) {
            this.app = app;
            app.listeners.add(requests::add);
            try {
                server = SimulatedServer.start(0, 0, app);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
            open.add(server);
        }

        String url() {
            return server.baseUrl().toString();
        }

        @Override
        Map<String, String> settings(String... more) {
            var settings = settingsFor(server.baseUrl(), more);
            settings.put("XDG_STATE_HOME", path("state"));
            return settings;
        }

        /// Publishes the workflow with another form.
        ///
        /// @param fields with `'` instead of `"`
        void form(String fields) {
            app.publish(tree(json(fields)), Optional.empty());
        }

        int runs() {
            return count("started");
        }

        int count(String what) {
            return app.count(what);
        }

        /// The bodies of the requests whose path ends so.
        List<String> bodies(String path) {
            return requests.stream().filter(request -> request.path().endsWith(path))
                    .map(request -> new String(request.body(), UTF_8)).toList();
        }
    }

    /// A server that answers as the handler does, on a thread for each request, or else cuts the connection. Returns
    /// its address.
    URI serve(HttpHandler handler) throws IOException {
        var server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 100);
        server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
        server.createContext("/v1/", exchange -> {
            try (exchange) {
                handler.handle(exchange);
            }
        });
        server.start();
        open.add(() -> server.stop(0));
        return URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/v1");
    }

    /// Starts a program in the folder, without variables of this process that the tool or Java would read. Its output
    /// goes to `child.out` and `child.err`.
    Process start(List<String> words, Map<String, String> settings) throws IOException {
        var builder = new ProcessBuilder(words).directory(folder.toFile());
        builder.environment().keySet().removeIf(name ->
                name.matches("(?i)DIFY.*|.*_PROXY|MAX_RETR.*|INITIAL_RETR.*|TIMEOUT|LC_.*|JAVA.*|JDK_.*"));
        builder.environment().putAll(settings);
        builder.redirectOutput(file("child.out").toFile()).redirectError(file("child.err").toFile());
        var child = builder.start();
        open.add(child::destroyForcibly);
        return child;
    }

    /// Runs a line in bash without input and with these variables only. Returns all of its output. The line must
    /// succeed, though rows may fail.
    static String bash(Path folder, Map<String, String> variables, String line) throws Exception {
        var builder = new ProcessBuilder("bash", "-c", line).directory(folder.toFile()).redirectErrorStream(true)
                .redirectInput(ProcessBuilder.Redirect.from(new File("/dev/null")));
        builder.environment().clear();
        builder.environment().putAll(variables);
        var process = builder.start();
        var shown = new String(process.getInputStream().readAllBytes(), UTF_8);
        assertTrue(Set.of(Exit.OK.code, Exit.ROWS_FAILED.code).contains(process.waitFor()), line + "\n" + shown);
        return shown;
    }

    /// Starts the tool in a process of its own.
    Process start(Map<String, String> settings, String... args) throws IOException {
        return start(java(args), settings);
    }

    /// Writes this to the child's standard input, and closes it.
    static void feed(Process child, String text) throws IOException {
        try (var in = child.getOutputStream()) {
            in.write(text.getBytes(UTF_8));
        }
    }

    /// The words that start the tool in a process of its own.
    static List<String> java(String... args) {
        return List.of(words(Given.Tool.words(), args));
    }

    @FunctionalInterface interface Condition {
        boolean holds() throws Exception;
    }

    /// Polls, because nothing would notify us. Ten minutes are enough for a process on a busy machine.
    static void until(String what, Condition condition) throws Exception {
        var pause = new CountDownLatch(1);
        for (long end = System.nanoTime() + Duration.ofMinutes(10).toNanos(); !condition.holds(); ) {
            assertTrue(System.nanoTime() < end, () -> what + " within ten minutes");
            assertFalse(pause.await(20, TimeUnit.MILLISECONDS));
        }
    }

    private int terminals = 0;

    /// Runs the tool in a terminal of that size. Its exit code goes to the file `code`.
    void terminal(int columns, int lines, Map<String, String> settings, String... args) throws Exception {
        Assumptions.assumeTrue(Platform.HERE == Platform.UNIX
                && new ProcessBuilder("sh", "-c", "command -v tmux").start().waitFor() == 0, "tmux is not installed");
        var script = new StringBuilder("trap : INT\n");
        settings.forEach((name, value) -> script.append("export %s='%s'\n".formatted(name, value)));
        java(args).forEach(word -> script.append('\'').append(word).append("' "));
        script.append("\necho $? > code.tmp; mv code.tmp code; cat\n");
        Files.deleteIfExists(file("code"));
        Files.writeString(file("script"), script);
        var socket = file("tmux" + ++terminals);
        open.add(() -> tmux(socket, "kill-server"));
        tmux("new-session", "-d", "-x", "" + columns, "-y", "" + lines, "-c", folder.toString(), "sh script");
    }

    /// Returns what the command prints.
    String tmux(String... words) throws Exception {
        return tmux(file("tmux" + terminals), words);
    }

    private static String tmux(Path socket, String... words) throws Exception {
        var process = new ProcessBuilder(words(List.of("tmux", "-f", "/dev/null", "-S", socket.toString()), words))
                .redirectErrorStream(true).start();
        var shown = new String(process.getInputStream().readAllBytes(), UTF_8);
        process.waitFor();
        return shown;
    }

    String screen() throws Exception {
        return tmux("capture-pane", "-p");
    }

    /// The call of a child that is to end within ten minutes.
    Call ended(Process child) throws Exception {
        assertTrue(child.waitFor(10, TimeUnit.MINUTES), "the process does not end");
        var call = new Call(child.exitValue(), content("child.out"), content("child.err"));
        keyIsNowhere(call);
        return call;
    }

    /// A script that can be started at once. Another process writes it: files open in this process are also open in a
    /// process that another test starts at that moment, and such a script is busy.
    static Path executable(Path file, String text) throws IOException {
        Assumptions.assumeTrue(Platform.HERE == Platform.UNIX, "no shell");
        var writer = new ProcessBuilder("sh", "-c", "cat >\"$0\" && chmod +x \"$0\"", file.toString()).start();
        try (var script = writer.getOutputStream()) {
            script.write(text.getBytes(UTF_8));
        }
        assertEquals(0, writer.onExit().join().exitValue());
        return file;
    }

    static void await(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException _) {
            Thread.currentThread().interrupt();
        }
    }

    /// Creates a symbolic link. Windows requires a privilege for that, and Wine shows the file behind it.
    static Path link(Path link, Path target) throws IOException {
        Files.createSymbolicLink(link, target);
        Assumptions.assumeTrue(Files.isSymbolicLink(link), "no symbolic links here");
        return link;
    }

    /// Quotes what a test quotes for `sh` as the tool does on this system.
    static String quotedHere(String fact) {
        return fact.replace("'#'", Text.shell("#")).replace("';'", Text.shell(";"));
    }

    /// Found upwards from the current folder.
    static Path checkout() {
        var found = Stream.iterate(Path.of("").toAbsolutePath(), Objects::nonNull, Path::getParent)
                .filter(above -> Files.exists(above.resolve("README.md")))
                .filter(above -> Files.exists(above.resolve("DifyExec.java"))).findFirst();
        Assumptions.assumeTrue(found.isPresent(), "the checkout is missing");
        return found.get();
    }
}
