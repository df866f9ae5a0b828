package difyexec;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.github.tomakehurst.wiremock.WireMockServer;
import com.github.tomakehurst.wiremock.client.ResponseDefinitionBuilder;
import com.github.tomakehurst.wiremock.http.Fault;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Attempt.Tries;
import static difyexec.DifyExec.Judge.RetryRuns;
import static difyexec.Given.json;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static com.github.tomakehurst.wiremock.core.WireMockConfiguration.options;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// `DifyClient` and a server: the recorded answers of two versions of Dify, and everything that can break on
/// the way. `Wire` replaces WireMock, which is too well-behaved: it sends given bytes, and can hold a connection.
class ServerTest {

    static final String KEY = "app-k3y-of-the-test";
    static final Mode BLOCKING = Mode.BLOCKING, STREAMING = Mode.STREAMING;
    static final Duration LONG = Duration.ofSeconds(20), SHORT = Duration.ofMillis(300);
    static final Backoff BACKOFF = new Backoff(Duration.ofMillis(10), Duration.ofMillis(20), 3);

    // ── Helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    static Access access(URI url) {
        return new Access(url, KEY, "", "", Optional.empty(), Optional.empty());
    }

    static DifyClient client(URI url) {
        return client(url, LONG);
    }

    /// `limit` is the time for a run, and for the silence before a stream's first event.
    static DifyClient client(URI url, Duration limit) {
        return client(access(url), limit, limit);
    }

    /// The fields sent with a question to a chatflow.
    static Map<String, Value> asked(Attempt attempt) {
        return Form.ofText().withQuestion("text", List.of("id", "text")).values(attempt.row());
    }

    static DifyClient client(Access access, Duration timeout, Duration firstEvent) {
        return client(access, timeout, firstEvent, Transport.share(1));
    }

    static DifyClient client(Access access, Duration timeout, Duration firstEvent, long most) {
        return client(access, timeout, firstEvent, most, Response.AT_ONCE);
    }

    /// @param atOnce within which a response counts as one that came at once
    static DifyClient client(Access access, Duration timeout, Duration firstEvent, long most, Duration atOnce) {
        return new DifyClient(new Transport(access, most, Transport.QUIET, atOnce), access, AppKind.WORKFLOW, timeout,
                firstEvent);
    }

    static Judge judge() {
        return new Judge(BACKOFF, RetryRuns.TRANSIENT, access(URI.create("http://127.0.0.1/v1")), List.of());
    }

    static Response run(DifyClient client, Mode mode) {
        return run(client, attempt(mode), new Ears());
    }

    static Response run(DifyClient client, Attempt attempt, Ears heard) {
        return client.run(attempt, Form.ofText().values(attempt.row()), heard);
    }

    static LookUpResult look(DifyClient client, LookUp lookUp) {
        return client.look(lookUp.question(Instant.now(), LONG),
                Form.ofText().values(lookUp.attempt.row()));
    }

    static Response.Ran ran(Response response) {
        return assertInstanceOf(Response.Ran.class, response);
    }

    static Response.Refused refused(Response response) {
        return assertInstanceOf(Response.Refused.class, response);
    }

    static Response.Cut cut(Response response) {
        return assertInstanceOf(Response.Cut.class, response);
    }

    static Attempt attempt(Mode mode) {
        return attempt(mode, "user-1", Map.of("id", "r1", "text", "x"));
    }

    static Attempt attempt(Mode mode, String user, Map<String, String> inputs) {
        var row = new Row(0, 2, "r1", inputs);
        return Given.sent(1, row, Tries.NONE, user, mode, row.hash(), Instant.now());
    }

    static LookUp lookUp(String user, Optional<RunRef> run, Symptom symptom) {
        return Given.lookUp(attempt(BLOCKING, user, Map.of("id", "r1")), new Response.Cut(run, symptom, ""),
                LONG.toSeconds());
    }

    /// A WireMock server for each test, and a client of it.
    abstract static class Served {
        final WireMockServer dify = new WireMockServer(options().dynamicPort().bindAddress("127.0.0.1"));

        Served() {
            dify.start();
        }

        @AfterEach
        void stop() {
            dify.stop();
        }

        URI url() {
            return URI.create("http://127.0.0.1:" + dify.port() + "/v1");
        }

        <T> T ask(Function<DifyClient, T> question) {
            try (var client = client(url())) {
                return question.apply(client);
            }
        }

        LookUpResult look(LookUp lookUp) {
            return ask(client -> ServerTest.look(client, lookUp));
        }
    }

    /// The runs that a worker reported at their first event.
    record Ears(List<RunRef> runs, CountDownLatch first) implements Consumer<StreamEvent> {
        Ears() {
            this(new CopyOnWriteArrayList<>(), new CountDownLatch(1));
        }

        @Override
        public void accept(StreamEvent heard) {
            if (!(heard instanceof StreamEvent.Began(var run))) return;
            runs.add(run);
            first.countDown();
        }
    }

    /// A server on loopback that plays its script on each connection.
    static final class Wire implements AutoCloseable {
        private final ServerSocket socket;
        private final Script script;
        private final ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor();
        private final Set<Socket> open = ConcurrentHashMap.newKeySet();
        final List<String> requests = new CopyOnWriteArrayList<>();
        final AtomicInteger connections = new AtomicInteger();
        final CountDownLatch left = new CountDownLatch(1);

        @FunctionalInterface interface Script {
            void serve(Connection connection) throws IOException;
        }

        Wire(Script script) throws IOException {
            this(new ServerSocket(0, 100, InetAddress.getLoopbackAddress()), script);
        }

        Wire(ServerSocket socket, Script script) {
            this.socket = socket;
            this.script = script;
            threads.execute(this::accept);
        }

        URI url() {
            return URI.create("http://127.0.0.1:" + port() + "/v1");
        }

        int port() {
            return socket.getLocalPort();
        }

        private void accept() {
            try {
                while (true) {
                    var accepted = socket.accept();
                    connections.incrementAndGet();
                    open.add(accepted);
                    threads.execute(() -> serve(accepted));
                }
            } catch (IOException _) {
                // closed: the test is over
            }
        }

        private void serve(Socket accepted) {
            try (accepted) {
                script.serve(new Connection(accepted));
            } catch (IOException _) {
                // the client disconnected, which a script may wait for
            } finally {
                open.remove(accepted);
            }
        }

        @Override
        public void close() throws IOException {
            socket.close();
            for (var each : open) each.close();
            threads.shutdownNow();
        }

        final class Connection {
            private final Socket socket;
            private final InputStream in;
            String last = "";

            Connection(Socket socket) throws IOException {
                this.socket = socket;
                this.in = new BufferedInputStream(socket.getInputStream());
            }

            /// Reads and keeps one whole request. Returns false if the client disconnected.
            boolean request() throws IOException {
                var head = new ByteArrayOutputStream();
                for (int next = in.read(); next >= 0; next = in.read()) {
                    head.write(next);
                    if (head.toString(UTF_8).endsWith("\r\n\r\n")) break;
                }
                if (head.size() == 0) return false;
                var length = Pattern.compile("(?i)content-length: (\\d+)").matcher(head.toString(UTF_8));
                var body = length.find() ? in.readNBytes(Integer.parseInt(length.group(1))) : new byte[0];
                last = head.toString(UTF_8) + new String(body, UTF_8);
                requests.add(last);
                return true;
            }

            void say(String text) throws IOException {
                socket.getOutputStream().write(text.getBytes(UTF_8));
            }

            void chunk(String text) throws IOException {
                say(Integer.toHexString(text.getBytes(UTF_8).length) + "\r\n" + text + "\r\n");
            }

            void startStream() throws IOException {
                say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nX-Version: 1.14.2\r\n"
                        + "Transfer-Encoding: chunked\r\n\r\n");
            }

            void endStream() throws IOException {
                say("0\r\n\r\n");
            }

            void answer(String body) throws IOException {
                say("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Version: 1.14.2\r\nContent-Length: "
                        + body.getBytes(UTF_8).length + "\r\n\r\n" + body);
            }

            /// Reads some bytes, perhaps only a part of a request.
            void read(int bytes) throws IOException {
                in.readNBytes(bytes);
            }

            /// Becomes a connection to that port.
            void forward(int port) throws IOException {
                try (var to = new Socket(InetAddress.getLoopbackAddress(), port)) {
                    open.add(to);
                    threads.execute(() -> {
                        try {
                            to.getInputStream().transferTo(socket.getOutputStream());
                        } catch (IOException _) {
                            // one of both disconnected
                        }
                    });
                    in.transferTo(to.getOutputStream());
                }
            }

            /// Keeps the connection until the client closes it.
            void hold() throws IOException {
                try {
                    while (in.read() >= 0) {}
                } finally {
                    left.countDown();
                }
            }

            void reset() throws IOException {
                socket.setSoLinger(true, 0);
                socket.close();
            }
        }
    }

    /// The events of one run, as Dify writes them.
    static final class Events {
        static final RunRef REF = new RunRef("11111111-1111-4111-8111-111111111111", "task-1");
        static final String RUN = REF.id(), TASK = REF.task(), PING = "event: ping\n\n";

        static String event(String name, String data) {
            return json("data: {'event':'%s','workflow_run_id':'%s','task_id':'%s','data':%s}\n\n", name, RUN, TASK,
                    data);
        }

        static String started() {
            return event("workflow_started", json("{'id':'%s','workflow_id':'w','inputs':{'id':'r1'}}", RUN));
        }

        static String nodeFinished(String outputs) {
            return event("node_finished", json("{'id':'execution','node_id':'n','outputs':%s,'status':'succeeded',"
                    + "'error':null,'execution_metadata':null}", outputs));
        }

        static String finished(String outputs) {
            return event("workflow_finished", ended("succeeded", outputs));
        }

        static String ended(String status, String outputs) {
            return json("{'id':'%s','workflow_id':'w','status':'%s','outputs':%s,'error':null,"
                    + "'elapsed_time':1.5,'total_tokens':7,'total_steps':3}", RUN, status, outputs);
        }

        static String blocking(String outputs) {
            return json("{'task_id':'%s','workflow_run_id':'%s','data':%s}", TASK, RUN, ended("succeeded", outputs));
        }
    }

    // ── Recorded exchanges ──────────────────────────────────────────────────────────────────────────────────────────

    /// The outcome of an answer by the fact sheet, from the recording alone: one word, and the text of a failure.
    record Expected(String word, String text, JsonNode run) {
        Expected(String word, String text) {
            this(word, text, Given.JSON.nullNode());
        }

        /// API §9, by HTTP status, code and the start of the message; the first matching line counts.
        private static final String TABLE = """
                400 | invalid_param    | Too many requests.              | throttled
                400 | invalid_param    | Workflow not published          | stop
                400 | invalid_param    | Arg user must be provided.      | stop
                400 | invalid_param    | 1 validation error              | stop
                400 | invalid_param    | No class mapping found for node | stop
                400 | invalid_param    | Run failed: Reached maximum     | look up
                400 | invalid_param    |                                 | failed
                400 |                  | Input payload validation failed | stop
                400 | not_chat_app     |                                 | stop
                400 | bad_request      |                                 | stop
                400 | not_workflow_app |                                 | stop
                401 | unauthorized     |                                 | stop
                403 | forbidden        |                                 | stop
                404 |                  |                                 | stop
                308 |                  |                                 | stop
                415 |                  |                                 | stop
                413 |                  |                                 | failed
                500 |                  |                                 | look up
                502 |                  |                                 | look up
                504 |                  |                                 | look up
                """;
        /// API §6: how a stream reports wrong data of a row.
        private static final Pattern FORM = Pattern.compile(".* is required in input form|.* in input form must be .*"
                + "|transfer_method is required in file mapping|'.*' is not a valid FileTransferMethod"
                + "|query is required|Invalid upload file.*|Invalid file url|Detected file type does not match .*"
                + "|File validation failed for file: .*"
                + "|Reached maximum retries \\(3\\) for URL .*|Invalid input type for .*|expected value type int, .*"
                + "|this statement should be unreachable.", Pattern.DOTALL);

        static Expected of(Recorded.Exchange exchange) throws IOException {
            if (exchange.status() == 0) return new Expected("look up", "");
            if (exchange.isStream()) return ofStream(exchange.text(), exchange.isQuestion());
            var body = parsed(exchange.text());
            if (exchange.status() == 200 && exchange.isQuestion()
                    && body.path("event").asText().equals("workflow_paused"))
                return ofRun(body.path("data"), body);
            if (exchange.status() == 200 && exchange.isQuestion())
                return new Expected(body.path("answer").asText().isEmpty() ? "look up" : "succeeded", "", body);
            if (exchange.status() == 200) return ofRun(body.path("data"), body);
            // API §17.1: only JSON is Dify's own
            return !body.isObject() ? new Expected("look up", "")
                    : refused(exchange.status(), body.path("code").asText(""), body.path("message").asText(""));
        }

        private static JsonNode parsed(String text) {
            try {
                return Given.JSON.readTree(text);
            } catch (JsonProcessingException _) {
                return Given.JSON.missingNode(); // a proxy's HTML
            }
        }

        private static Expected ofStream(String body, boolean isQuestion) {
            var answer = "";
            boolean isRun = false;
            for (var line : body.split("\n")) {
                var event = line.startsWith("data: ") ? parsed(line.substring(6)) : Given.JSON.missingNode();
                isRun |= event.has("workflow_run_id");
                switch (event.path("event").asText("")) {
                    case "message" -> answer += event.path("answer").asText();
                    case "message_end" -> { // API §14.3: nothing ran
                        if (isQuestion && !isRun)
                            return new Expected("succeeded", "", ((ObjectNode) event).put("answer", answer));
                    }
                    case "workflow_finished", "workflow_paused" -> {
                        return ofRun(event.path("data"), event);
                    }
                    case "error" -> {
                        var message = event.path("message").asText();
                        if (body.contains("\"event\":\"workflow_finished\"")) return new Expected("look up", "");
                        if (event.has("code"))
                            return refused(event.path("status").asInt(), event.path("code").asText(), message);
                        return new Expected(FORM.matcher(message).matches() ? "failed" : "look up", message);
                    }
                    default -> {}
                }
            }
            return new Expected("look up", "");
        }

        private static Expected ofRun(JsonNode data, JsonNode run) {
            var error = data.path("error").asText("");
            if (isMadeUp(data))
                return new Expected(FORM.matcher(error).matches() ? "failed or look up" : "look up", error);
            return new Expected(switch (data.path("status").asText()) {
                case "succeeded" -> "succeeded";
                case "partial-succeeded" -> "partial";
                case "paused" -> "paused";
                case "stopped" -> "look up";
                case "failed" -> data.path("total_steps").asInt() == 0 && data.path("outputs").isEmpty() ? "look up"
                        : error.startsWith("Reached maximum retries") ? "again" : "failed";
                case String other -> throw new IllegalArgumentException(other);
            }, error, run);
        }

        /// API §2.3: 1.16.0 adds an end to a stream that has none; it is not the end of a run.
        private static boolean isMadeUp(JsonNode data) {
            return data.path("status").asText().equals("failed") && data.path("outputs").isNull()
                    && data.path("total_steps").asInt(-1) == 0 && data.path("created_by").isEmpty();
        }

        private static Expected refused(int status, String code, String message) {
            var rules = TABLE.lines().map(line -> Stream.of(line.split("\\|")).map(String::strip).toList());
            var word = rules.filter(rule -> rule.get(0).equals("" + status) && message.startsWith(rule.get(2))
                    && (rule.get(1).isEmpty() || rule.get(1).equals(code))).map(List::getLast).findFirst();
            return new Expected(word.orElseThrow(() -> new NoSuchElementException(status + message)),
                    message.replaceFirst("^Run failed: ", ""));
        }
    }

    // ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheDifyClient extends Served {
        TheDifyClient() {
            dify.stubFor(any(anyUrl()).willReturn(aResponse().withHeader("Content-Type", "application/json")
                    .withHeader("X-Version", "1.14.2").withBody(Events.blocking("{}"))));
        }

        @ParameterizedTest
        @CsvSource({"BLOCKING, blocking", "STREAMING, streaming"})
        void sendsCellsAsTextWithTheResponseModeAndTheUser(Mode mode, String word) {
            var cells = Map.of("id", "7", "zip", "007", "empty", "", "text", "say \"あ\" 😀,\n\ttwice \\ \u0001");

            ask(client -> run(client, attempt(mode, "difyexec-00-1", cells), new Ears()));

            dify.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/run"))
                    .withHeader("Authorization", equalTo("Bearer " + KEY))
                    .withHeader("Content-Type", equalTo("application/json"))
                    .withRequestBody(equalToJson("""
                            {"inputs": {"id": "7", "zip": "007", "empty": "",
                                        "text": "say \\"あ\\" 😀,\\n\\ttwice \\\\ \\u0001"},
                             "response_mode": "%s", "user": "difyexec-00-1"}
                            """.formatted(word))));
        }

        @ParameterizedTest
        @CsvSource({"5e0dfc88-8475-4946-a840-d85d8e9e04d1, 5e0dfc88-8475-4946-a840-d85d8e9e04d1", "a b/c, a%20b%2Fc"})
        void startsRunsAtTheUrlOfAPinnedWorkflowVersion(String version, String inPath) {
            var access = new Access(url(), KEY, "", version, Optional.empty(), Optional.empty());

            try (var client = DifyClient.of(access, LONG, 1)) {
                run(client, BLOCKING);
            }

            dify.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/" + inPath + "/run")));
            dify.verify(1, postRequestedFor(anyUrl()));
        }

        @Test
        void stopsARunByItsTaskIdAndUser() {
            try (var client = client(url())) {
                client.stop(Events.REF, "difyexec-00-\"1\"");
            }

            dify.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/tasks/" + Events.TASK + "/stop"))
                    .withHeader("Authorization", equalTo("Bearer " + KEY))
                    .withRequestBody(equalToJson("{\"user\": \"difyexec-00-\\\"1\\\"\"}")));
        }

        @Test
        void stopsATimedOutRunOnlyOnceDuringRepeatedLookUps() {
            var lookUp = lookUp("u", Optional.of(Events.REF), Symptom.TIMED_OUT);

            look(lookUp);
            for (int overdue = 0; overdue < 2; overdue++) {
                lookUp.lookAgain(LookUp.Stage.OVERDUE, Instant.now());
                look(lookUp);
            }

            dify.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/tasks/" + Events.TASK + "/stop")));
            dify.verify(3, getRequestedFor(urlEqualTo("/v1/workflows/run/" + Events.RUN)));
        }

        @ParameterizedTest
        @ValueSource(strings = {"difyexec-00-1", "a b&limit=100", "c+é%41/#?", "=\"'あ😀"})
        void looksUpAnAttemptWithoutARunIdByItsUser(String user) {
            look(lookUp(user, Optional.empty(), Symptom.NO_RESPONSE));

            dify.verify(1, getRequestedFor(urlPathEqualTo("/v1/workflows/logs"))
                    .withQueryParam("created_by_end_user_session_id", equalTo(user))
                    .withHeader("Authorization", equalTo("Bearer " + KEY)));
        }

        @Test
        void leavesARunUnknownIfTheLogListsItWithoutAnId() {
            dify.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(aResponse().withBody("""
                    {"data": [{"workflow_run": {"id": ""}, "created_by_end_user": {"session_id": "user-1"}}]}""")));
            // Dify's own 404 would show that there is no run
            dify.stubFor(get("/v1/workflows/run/").willReturn(aResponse().withStatus(404).withHeader("X-Version", "1.14.2")
                    .withBody("{\"code\":\"not_found\",\"message\":\"\",\"status\":404}")));

            assertInstanceOf(LookUpResult.Inconclusive.class,
                    look(lookUp("user-1", Optional.empty(), Symptom.NO_RESPONSE)));
            dify.verify(0, getRequestedFor(urlEqualTo("/v1/workflows/run/")));
        }

        @Test
        void followsNoRedirect() {
            dify.stubFor(post(anyUrl()).willReturn(aResponse().withStatus(308)
                    .withHeader("Location", url() + "/elsewhere").withBody("<html>moved</html>")));

            var refused = refused(ask(client -> run(client, BLOCKING)));

            assertEquals(308, refused.status());
            assertEquals(url() + "/elsewhere", refused.message());
            dify.verify(1, postRequestedFor(anyUrl()));
        }
    }

    // ── Connections ─────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheServerConnection {

        @Test
        void isNotReusedAfterARun() throws IOException {
            try (var wire = new Wire(connection -> {
                while (connection.request()) connection.answer(Events.blocking("{\"a\":1}"));
            }); var client = client(wire.url())) {
                for (int i = 0; i < 5; i++) ran(run(client, BLOCKING));

                assertEquals(5, wire.connections.get());
            }
        }

        @Test
        void neverResendsAPostWhenItBreaks() throws IOException {
            var posts = new AtomicInteger();
            try (var wire = new Wire(connection -> {
                while (connection.request()) {
                    if (posts.incrementAndGet() > 1) return; // accepted, and the connection closed without an answer
                    connection.answer(Events.blocking("{}"));
                }
            }); var client = client(wire.url())) {
                run(client, BLOCKING);
                var second = run(client, BLOCKING);

                assertEquals(Symptom.NO_RESPONSE, cut(second).symptom());
                assertEquals(2, posts.get());
            }
        }

        @Test
        void isReportedAsFailedBeforeTheRequestIfTheServerIsDown() {
            // A free port of this moment could be given to a test beside this one; port 1 is never given out.
            try (var client = client(URI.create("http://127.0.0.1:1/v1"))) {
                var response = assertInstanceOf(Response.NotSent.class, run(client, BLOCKING));

                assertEquals("unreached", Given.word(judge().verdict(attempt(BLOCKING), response)));
            }
        }

        @Test
        void sendsNothingOverAnUntrustedCertificateAndSuggestsACaFile() {
            var dify = new WireMockServer(options().dynamicPort().dynamicHttpsPort().bindAddress("127.0.0.1"));
            dify.start();
            try (var client = client(URI.create("https://127.0.0.1:" + dify.httpsPort() + "/v1"))) {
                var response = assertInstanceOf(Response.NotSent.class, run(client, BLOCKING));

                assertFalse(response.why().contains("PKIX"), response.why());
                assertTrue(response.hint().contains("DIFY_CA_FILE"), response.hint());
                dify.verify(0, postRequestedFor(anyUrl()));
            } finally {
                dify.stop();
            }
        }

        @Test
        void goesToTheProxyInsteadOfTheServer() throws IOException {
            try (var proxy = new Wire(connection -> {
                while (connection.request()) connection.answer(Events.blocking("{\"by\":\"proxy\"}"));
            }); var client = client(through("", proxy), LONG, LONG)) {
                var ran = ran(run(client, BLOCKING));

                assertEquals("{\"by\":\"proxy\"}", ran.outputs().toString());
                assertEquals("POST http://dify.test:8080/v1/workflows/run HTTP/1.1",
                        proxy.requests.getFirst().lines().findFirst().orElse(""));
            }
        }

        @Test
        void logsInToTheProxyWithTheCredentialsInItsUrl() throws IOException {
            try (var proxy = new Wire(connection -> {
                while (connection.request()) {
                    if (connection.last.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"))
                        connection.answer(Events.blocking("{}"));
                    else connection.say("HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic realm=\"p\"\r\n"
                            + "Content-Length: 0\r\n\r\n");
                }
            }); var client = client(through("me:secret@", proxy), LONG, LONG)) {
                ran(run(client, BLOCKING));
            }
        }

        private static Access through(String login, Wire proxy) {
            return new Access(URI.create("http://dify.test:8080/v1"), KEY, "", "",
                    Optional.of(URI.create("http://" + login + proxy.url().getAuthority())), Optional.empty());
        }
    }

    // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AResponse extends Served {
        private Response seen(Mode mode, ResponseDefinitionBuilder answer) {
            dify.stubFor(post(anyUrl()).willReturn(answer));
            return ask(client -> run(client, mode));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                fault,                    symptom
                EMPTY_RESPONSE,           NO_RESPONSE
                CONNECTION_RESET_BY_PEER, NO_RESPONSE
                RANDOM_DATA_THEN_CLOSE,   NO_RESPONSE
                MALFORMED_RESPONSE_CHUNK, CUT
                """)
        void requiresALookUpIfTheConnectionBreaksAfterTheRequest(Fault fault, Symptom symptom) {
            for (var mode : List.of(BLOCKING, STREAMING)) {
                var response = seen(mode, aResponse().withHeader("X-Version", "1.14.2").withFault(fault));

                // whether the headers are passed on before the break shows depends on timing
                var early = fault == Fault.MALFORMED_RESPONSE_CHUNK ? Symptom.NO_RESPONSE : symptom;
                assertTrue(cut(response).symptom() == symptom || cut(response).symptom() == early, response.toString());
                assertEquals("look up", Given.word(judge().verdict(attempt(mode), response)));
            }
            dify.verify(2, postRequestedFor(anyUrl()));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                body                                      | from   | symptom
                <html><body>Sign in</body></html>         | proxy  | GATEWAY
                <html><body>Sign in</body></html>         | Dify   | CUT
                ''                                        | Dify   | CUT
                {"task_id": "t", "workflow_run_id": "r",  | Dify   | CUT
                {"data": {"status": "succ                 | Dify   | CUT
                ["succeeded"]                             | Dify   | CUT
                {}                                        | Dify   | CUT
                {"data": {"id": "r", "outputs": {}}}      | Dify   | CUT
                {"data": {"id": "r", "status": "new"}}    | Dify   | CUT
                {"data": {"status": "succeeded"}}         | Dify   | CUT
                {"data": null}                            | proxy  | GATEWAY
                """)
        void isNotASuccessIfItIsHttp200WithoutARunResult(String body, String from, Symptom symptom) {
            var answer = aResponse().withBody(body);
            if (from.equals("Dify")) answer.withHeader("X-Version", "1.14.2");

            var response = seen(BLOCKING, answer);

            assertEquals(symptom, cut(response).symptom());
        }

        /// `then`: the HTTP status that says something about the run, if the response came at once, and if it came
        /// later.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                status | body                                                        | symptom | at once | later
                500    | {"code": "unknown", "message": "Error", "status": 500}      | CUT     | 500     | 500
                503    | {"code": "unavailable", "message": "Error", "status": 503}  | CUT     | 503     | 503
                500    | {"code": "unknown", "message": "Error", "status": 502}      | GATEWAY | 500     | 0
                500    | {"code": "unknown", "message": "Error"}                     | GATEWAY | 500     | 0
                504    | {"message": "Endpoint request timed out"}                   | GATEWAY | 504     | 0
                500    | <html><title>Oops</title><style>p {}</style>Sorry</html>    | GATEWAY | 500     | 0
                502    | <html>Sorry</html>                                          | GATEWAY | 502     | 0
                503    | Sorry                                                       | GATEWAY | 503     | 0
                504    | <html>Sorry</html>                                          | GATEWAY | 504     | 0
                524    | <html>Sorry</html>                                          | GATEWAY | 0       | 0
                202    | {"message": "accepted"}                                     | GATEWAY | 0       | 0
                200    | <html>Sorry</html>                                          | GATEWAY | 0       | 0
                """)
        void requiresALookUpOfTheRunIfDifyHasNotResponded(int status, String body, Symptom symptom, int atOnce,
                int later) {
            var answer = aResponse().withStatus(status).withBody(body);
            dify.stubFor(post(anyUrl()).willReturn(answer));
            var access = access(URI.create(dify.baseUrl() + "/v1"));
            for (var mode : List.of(BLOCKING, STREAMING)) {
                for (var limit : List.of(LONG, Duration.ZERO)) {
                    try (var client = client(access, LONG, LONG, Transport.share(1), limit)) {
                        var response = run(client, mode);

                        assertEquals(limit == LONG ? atOnce : later, response.httpStatus(), response::toString);
                        var verdict = judge().verdict(attempt(mode), response);
                        var unresolved = assertInstanceOf(Verdict.Unresolved.class, verdict);
                        if (status != 200 || mode == BLOCKING) assertEquals(symptom, unresolved.symptom());
                    }
                }
            }
        }

        @Test
        void doesNotRepeatTheHtmlOfAProxy() {
            var page = aResponse().withStatus(502).withBody("<html><title>Oops</title><style>p {}</style>Sorry</html>");

            assertEquals("a web page (from a proxy?)", refused(seen(BLOCKING, page)).message());
        }

        @ParameterizedTest
        @CsvSource({"' 120 ', 120", "soon,", "-5,", "'',", "'Wed, 21 Oct 2015 07:28:00 GMT',",
            "99999999999999999999,"})
        void yieldsRetryAfterInSecondsAndIgnoresInvalidValues(String text, Long seconds) {
            var response = seen(BLOCKING, aResponse().withStatus(429).withHeader("Retry-After", text));

            assertEquals(Optional.ofNullable(seconds).map(Given::seconds), refused(response).retryAfter());
        }

        @Test
        void yieldsTheDelayUntilARetryAfterDate() {
            var until = Instant.now().plusSeconds(90);
            var date = DateTimeFormatter.RFC_1123_DATE_TIME.format(until.atZone(ZoneOffset.UTC));

            var response = seen(BLOCKING, aResponse().withStatus(429).withHeader("Retry-After", date));

            var wait = refused(response).retryAfter().orElseThrow();
            assertTrue(wait.toSeconds() <= 90 && wait.toSeconds() > 60, wait::toString);
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{\"data\": {"})
        void timesOutIfIncompleteAtTheTimeLimit(String beginning) throws IOException {
            try (var wire = new Wire(connection -> {
                connection.request();
                connection.say(beginning);
                connection.hold();
            }); var client = client(wire.url(), SHORT)) {
                assertEquals(Symptom.TIMED_OUT, cut(run(client, BLOCKING)).symptom());
                assertEquals(1, wire.requests.size());
            }
        }
    }

    // ── Looks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// For a client that has room for twenty thousand bytes.
    @Nested
    class AResponseTooLargeForMemory {
        private static final String LARGE = "{\"text\":\"" + "x".repeat(60_000) + "\"}";
        private final Ears heard = new Ears();

        private <T> T by(Wire.Script answer, Function<DifyClient, T> asked) throws IOException {
            try (var wire = new Wire(connection -> {
                connection.request();
                answer.serve(connection);
            }); var client = client(access(wire.url()), LONG, LONG, 20_000)) {
                return asked.apply(client);
            }
        }

        private Response streamed(String... events) throws IOException {
            return by(connection -> {
                connection.startStream();
                for (var event : events) connection.chunk(event);
                connection.endStream();
            }, client -> run(client, attempt(STREAMING), heard));
        }

        private static void isTooLarge(Response response) {
            assertTrue(assertInstanceOf(Response.Unreadable.class, response).why().contains("-Xmx4g"));
        }

        @Test
        void leadsToAMemoryHintOrToALookUpIfItsRunIsKnown() throws IOException {
            isTooLarge(by(connection -> connection.answer(Events.blocking(LARGE)), client -> run(client, BLOCKING)));
            isTooLarge(by(connection -> {
                connection.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                connection.chunk(Events.blocking(LARGE));
            }, client -> run(client, BLOCKING)));
            assertEquals(Optional.of(Events.REF), cut(streamed(Events.started(), Events.finished(LARGE))).run());
        }

        @Test
        void aTooDeeplyNestedResponseIsUnreadableOrItsRunIsLookedUp() throws IOException {
            var deep = "{\"a\":" + "[".repeat(3000) + "]".repeat(3000) + "}";

            assertInstanceOf(Response.Unreadable.class, by(connection -> connection.answer(Events.blocking(deep)),
                    client -> run(client, BLOCKING)));
            assertEquals(Symptom.CUT, cut(streamed(Events.started(), Events.finished(deep))).symptom());
        }

        @Test
        void leavesALookUpWithoutAResult() throws IOException {
            var found = by(connection -> connection.answer(Events.ended("succeeded", LARGE)), client ->
                    ServerTest.look(client, lookUp("u", Optional.of(Events.REF), Symptom.CUT)));

            isTooLarge(assertInstanceOf(LookUpResult.Inconclusive.class, found).response());
        }

        @Test
        void theSizeLimitIsAShareOfTheMemoryButAtLeastAMegabyte() {
            assertEquals(Runtime.getRuntime().maxMemory() / 40, Transport.share(4));
            assertEquals(1 << 20, Transport.share(10_000));
        }

        @Test
        void aLongStreamOfSmallEventsIsStillRead() throws IOException {
            var node = Events.nodeFinished(LARGE.substring(0, 9_000) + "\"}");

            var ran = ran(streamed(Events.started(), node, node, node, Events.finished("{\"a\":1}")));

            assertEquals("{\"a\":1}", ran.outputs().toString());
        }
    }

    @Nested
    class ALookUpResponse extends Served {
        private LookUpResult detail(ResponseDefinitionBuilder answer) {
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/r")).willReturn(answer));
            return look(lookUp("u", Optional.of(new RunRef("r", "t")), Symptom.CUT));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                status | from  | body
                404    | proxy | <html>no such page</html>
                200    | proxy | <html>Sign in</html>
                200    | Dify  | {"id": "r", "status": "succ
                200    | Dify  | []
                401    | Dify  | {"code": "unauthorized", "message": "Access token is invalid", "status": 401}
                429    | proxy | slow down
                500    | Dify  | {"code": "unknown", "message": "Internal Server Error", "status": 500}
                502    | proxy | <html>Bad Gateway</html>
                """)
        void leavesTheRunUnknownIfItIsAnErrorOrUnreadable(int status, String from, String body) {
            var answer = aResponse().withStatus(status).withBody(body);

            var found = detail(from.equals("Dify") ? answer.withHeader("X-Version", "1.14.2") : answer);

            assertInstanceOf(LookUpResult.Inconclusive.class, found);
        }

        private static final String USER = "difyexec-0123456789abcdef-1";

        private void stored(String id, String status) {
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/" + id)).willReturn(status.isEmpty()
                    ? aResponse().withStatus(404).withBody("{\"code\":\"not_found\",\"message\":\"\",\"status\":404}")
                    : aResponse().withBody("{\"id\":\"%s\",\"status\":\"%s\",\"outputs\":{},\"inputs\":{%s}}"
                            .formatted(id, status.replace("another's", "succeeded"),
                                    status.equals("another's") ? "\"sys.user_id\":\"another\"" : ""))));
        }

        private void listed(String... runs) {
            dify.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(aResponse().withBody(Stream.of(runs)
                    .map(run -> "{\"workflow_run\":{\"id\":\"%s\"},\"created_by_end_user\":{\"session_id\":\"%s\"}}"
                            .formatted(run, USER)).collect(Collectors.joining(",", "{\"data\":[", "]}")))));
        }

        /// The id of the `made-up` end leads nowhere. A mixed-up stream started with `r`; its own run is `own`.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom,      listed, r is,      found
                UNCONFIRMED,  own,    succeeded, succeeded r
                UNCONFIRMED,  own,    ,          failed own
                UNCONFIRMED,  ,       ,          absent
                CONTRADICTED, own,    another's, failed own
                CONTRADICTED, ,       another's, no response
                CUT,          own,    succeeded, succeeded r
                CUT,          own,    ,          absent
                CRASH,        own,    ,          failed own
                CRASH,        ,       ,          absent
                """)
        void yieldsTheRunByItsIdOrIfTheIdIsDoubtfulByItsUser(Symptom symptom, String listed, String status,
                String expected) {
            stored("r", Objects.toString(status, ""));
            stored("own", "failed");
            listed(listed == null ? new String[0] : new String[] {listed});

            var found = look(lookUp(USER, Optional.of(new RunRef("r",
                    symptom == Symptom.CRASH ? "r" : "")), symptom)); // one made-up id for both

            assertEquals(expected, (found.word() + found.run().map(run -> " " + run.id()).orElse("")));
        }

        /// A replica may lag, or the record may have been cleaned up; Dify 1.9 responds with nulls.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                status | record                                             | found
                404    | {"code":"not_found","message":"","status":404}     | listed own
                200    | {"id":null,"status":null}                          | listed own
                502    | <html>Bad Gateway</html>                           | listed own
                200    | {"id":"own","status":"running"}                    | running own
                200    | {"id":"own","status":"succeeded","outputs":{}}     | succeeded own
                """)
        void isNotAbsentIfAListShowsTheRun(int status, String record, String expected) {
            listed("own");
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/own"))
                    .willReturn(aResponse().withStatus(status).withBody(record)));

            var found = look(lookUp(USER, Optional.empty(), Symptom.NO_RESPONSE));

            assertEquals(expected, found.word() + found.run().map(run -> " " + run.id()).orElse(""));
            assertTrue(found.isThere());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                status | messages                                            | found
                404    | {"code":"not_found","message":"No.","status":404}   | listed
                200    | {"data":[]}                                         | listed
                500    | {"code":"unknown","message":"Error","status":500}   | listed
                """)
        void isNotAbsentIfAListShowsTheConversation(int status, String messages, String expected) {
            dify.stubFor(get(urlPathEqualTo("/v1/conversations"))
                    .willReturn(aResponse().withBody("{\"data\":[{\"id\":\"c\"}]}")));
            dify.stubFor(get(urlPathEqualTo("/v1/messages"))
                    .willReturn(aResponse().withStatus(status).withBody(messages)));

            for (var kind : List.of(AppKind.CHAT, AppKind.CHATFLOW)) {
                var found = ask(client -> ServerTest.look(client.forApp(kind),
                        lookUp(USER, Optional.empty(), Symptom.NO_RESPONSE)));

                assertEquals(expected, found.word());
                assertNotEquals("stop", Given.word(judge().verdict(attempt(BLOCKING),
                        assertInstanceOf(LookUpResult.Inconclusive.class, found).response())));
            }
        }

        /// As a caching proxy returns it.
        @Test
        void isIgnoredIfItHasAnotherRunId() {
            var found = detail(aResponse().withBody("{\"id\":\"s\",\"status\":\"succeeded\",\"outputs\":{\"a\":1}}"));

            assertEquals(LookUpResult.FOREIGN, found);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', nullValues = "-", textBlock = """
                date                          | least | most
                Fri, 16 Jan 2026 12:00:00 GMT | 60    | 60
                soon                          | 1000  | 999999999
                -                             | 1000  | 999999999
                """)
        void yieldsTheAgeOfARunByTheServersClock(String date, long least, long most) {
            var answer = aResponse().withBody("{\"id\":\"r\",\"status\":\"running\",\"created_at\":1768564740}");
            if (date != null) answer.withHeader("Date", date);

            var age = assertInstanceOf(LookUpResult.Running.class, detail(answer)).age().orElseThrow().toSeconds();

            assertTrue(age >= least && age <= most, age + " s");
        }

        @Test
        void leavesTheRunUnknownIfTheServerIsUnreachable() {
            try (var client = client(url())) {
                dify.stop();

                assertInstanceOf(LookUpResult.Inconclusive.class,
                        ServerTest.look(client, lookUp("u", Optional.empty(), Symptom.CUT)));
            }
        }
    }
}
