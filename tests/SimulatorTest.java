package difyexec;

import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.node.MissingNode;
import difyexec.SimulatedRoute.Breakage;
import difyexec.Simulator.Fault;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;
import module java.net.http;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// What the simulator does beyond the recordings: routes that are broken forever, workers that reserve jobs, and a door
/// where requests wait. Other tests and the benchmarks rely on it.
final class SimulatorTest {
    /// A response as far as it came, and what ended it.
    record Seen(int status, Map<String, List<String>> headers, String body, Optional<IOException> problem) {
        boolean isJson() {
            try {
                return Given.tree(body).isObject();
            } catch (UncheckedIOException _) {
                return false;
            }
        }
    }

    private abstract static class WithServer {
        SimulatedDify dify;
        SimulatedServer server;
        private final HttpClient http = HttpClient.newHttpClient();

        void start(int places, String... options) throws IOException {
            dify = SimulatedDify.of(options);
            server = SimulatedServer.start(0, places, dify);
        }

        @AfterEach
        void close() throws IOException {
            if (server != null) server.close();
            http.shutdownNow();
        }

        HttpRequest.Builder request(String path) {
            return HttpRequest.newBuilder(URI.create(server.baseUrl().toString().replace("/v1", "") + path))
                    .version(HttpClient.Version.HTTP_1_1).header("Authorization", "Bearer app-test")
                    .header("Content-Type", "application/json");
        }

        HttpRequest.Builder run(String id, String text, String mode) {
            return request("/v1/workflows/run").POST(HttpRequest.BodyPublishers.ofString(body(id, text, mode)));
        }

        private static String body(String id, String text, String mode) {
            return Given.json("{'inputs':{'id':'%s','text':'%s'},'response_mode':'%s','user':'user-%s'}",
                    id, text, mode, id);
        }

        /// A blocking request as it is on the wire.
        static byte[] whole(String id, String text) {
            return raw("/v1/workflows/run", body(id, text, "blocking"));
        }

        static byte[] raw(String route, String body) {
            return ("POST " + route + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-test\r\nContent-Type: "
                    + "application/json\r\nContent-Length: " + body.length() + "\r\n\r\n" + body).getBytes(UTF_8);
        }

        HttpResponse<InputStream> open(HttpRequest.Builder request) throws IOException, InterruptedException {
            return http.send(request.build(), HttpResponse.BodyHandlers.ofInputStream());
        }

        Seen see(HttpRequest.Builder request) throws InterruptedException {
            var body = new ByteArrayOutputStream();
            HttpResponse<InputStream> response = null;
            var problem = Optional.<IOException>empty();
            try {
                response = open(request);
                response.body().transferTo(body);
            } catch (IOException broken) {
                problem = Optional.of(broken);
            }
            return new Seen(response == null ? 0 : response.statusCode(),
                    response == null ? Map.of() : response.headers().map(), body.toString(UTF_8), problem);
        }
    }

    @Nested
    class ABrokenRoute extends WithServer {
        private static final String LIST = "/v1/workflows/logs?page=2&limit=1&created_by_end_user_session_id=user-a";

        @BeforeEach
        void start() throws Exception {
            start(0, "--latency", "1ms", "--speed", "100", "--dify", "1.16.1");
            for (var text : List.of("first", "second")) see(run("a", text, "blocking"));
        }

        @ParameterizedTest
        @EnumSource
        void isTheOnlyOne(Breakage breakage) throws Exception {
            dify.breakRoute(SimulatedRoute.LIST, breakage, 0);

            var list = breakage.takesForever() ? new Seen(0, Map.of(), "", Optional.empty())
                    : see(request(LIST));

            assertTrue(see(request("/v1/info")).isJson());
            switch (breakage) {
                case CUT_BEFORE -> assertEquals(0, list.status());
                case CUT_WITHIN -> assertTrue(list.status() == 200 && list.problem().isPresent(), list::toString);
                case NO_RESPONSE -> assertThrows(HttpTimeoutException.class, () -> open(request(LIST)
                        .timeout(Duration.ofMillis(200))));
                case PINGS -> assertEquals("   ", new String(open(request(LIST)).body().readNBytes(3), UTF_8));
                case HALF_JSON -> assertTrue(list.status() == 200 && !list.isJson() && list.problem().isEmpty()
                        && list.body().startsWith("{"), list::toString);
                case NUMBER -> assertTrue(list.body().contains("\"total\":" + Breakage.HUGE), list::toString);
                case HTML -> assertTrue(list.status() == 200
                        && list.headers().get("content-type").getFirst().startsWith("text/html"), list::toString);
                case EMPTY -> assertEquals("", list.body());
                case REPEATED_PAGE -> assertTrue(list.body().contains("\"page\":1,")
                        && list.body().contains("\"has_more\":true"), list::toString);
                case REDIRECT -> assertTrue(list.status() == 307 && list.headers().get("location").getFirst()
                        .equals(LIST), list::toString);
            }
        }

        @ParameterizedTest
        @EnumSource(names = {"CUT_WITHIN", "PINGS", "HALF_JSON", "NUMBER", "EMPTY", "HTML"})
        void breaksAStream(Breakage breakage) throws Exception {
            dify.breakRoute(SimulatedRoute.RUN, breakage, 0);

            var stream = breakage == Breakage.PINGS ? new Seen(200, Map.of(), new String(
                    open(run("b", "x", "streaming")).body().readNBytes(26), UTF_8), Optional.empty())
                    : see(run("b", "x", "streaming"));

            assertEquals(3, dify.count("started"));
            var events = stream.body().lines().filter(line -> line.startsWith("data: "))
                    .map(line -> new Seen(200, Map.of(), line.substring(6), Optional.empty())).toList();
            switch (breakage) {
                // the JDK's client may drop what it received just before the end
                case CUT_WITHIN -> assertTrue(events.size() <= 3 && stream.problem().isPresent(), stream::toString);
                case PINGS -> assertEquals("event: ping\n\nevent: ping\n\n", stream.body());
                case HALF_JSON -> assertTrue(events.size() > 5 && events.stream().noneMatch(Seen::isJson),
                        stream::toString);
                case NUMBER -> assertTrue(events.size() > 5 && events.stream().allMatch(event -> event.body()
                        .contains(":" + Breakage.HUGE)), stream::toString);
                default -> assertTrue(events.isEmpty(), stream::toString);
            }
        }

        @Test
        void breaksAfterANumberOfRunsAndIsRepaired() throws Exception {
            dify.breakRoute(SimulatedRoute.INFO, Breakage.EMPTY, 3);

            assertTrue(see(request("/v1/info")).isJson());
            see(run("c", "x", "blocking"));
            assertFalse(see(request("/v1/info")).isJson());
            dify.repairRoutes();
            assertTrue(see(request("/v1/info")).isJson());
            assertEquals(1, dify.brokenResponses());
        }

        @Test
        void startsNothingIfItRedirects() throws Exception {
            dify.breakRoute(SimulatedRoute.RUN, Breakage.REDIRECT, 0);

            see(run("d", "x", "streaming"));

            assertEquals(2, dify.count("started"));
        }

        @Test
        void mayBeThatOfAFileThatItServes() throws Exception {
            dify.outputFiles();

            var run = Given.tree(see(run("e", "x", "blocking")).body());
            var link = run.at("/data/outputs/files/0/url").asText();
            assertEquals(run.at("/data/outputs/files/0/size").asInt(), see(request(link)).body().length());
            dify.breakRoute(SimulatedRoute.DOWNLOAD, Breakage.CUT_WITHIN, 0);
            assertTrue(see(request(link)).problem().isPresent());
        }
    }

    @Nested
    class AGateway extends WithServer {
        @ParameterizedTest
        @CsvSource({"blocking,500,500", "streaming,502,502", "streaming,503,503", "blocking,504,504",
            "streaming,page,200"})
        void answersWhenItHasWaitedLongEnoughAndDifyContinues(String mode, String answer, int status) throws Exception {
            start(0, "--dify", "1.16.1", "--buffer", "10ms=" + answer);

            var seen = see(run("a", "[latency 60m]", mode));

            assertEquals(status, seen.status());
            assertTrue(seen.headers().get("content-type").contains("text/html"), seen::toString);
            assertFalse(seen.headers().containsKey("x-version"));
            dify.finishRuns();
            WholeCommand.until("the end of the run", () -> dify.count("twice") == 0 && dify.ledger().all()
                    .allMatch(job -> job.stored.isDone()));
            assertEquals(1, dify.count("started"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void passesAWholeResponse(String mode) throws Exception {
            start(0, "--dify", "1.16.1", "--buffer", "60m=504", "--latency", "1ms");

            var seen = see(run("a", "x", mode));

            assertTrue(seen.body().contains("succeeded"), seen::toString);
            assertTrue(seen.headers().containsKey("x-version"));
        }
    }

    @Nested
    class Workers extends WithServer {
        /// The jobs that have begun, after four were submitted to two workers with one slot each.
        private static Set<Integer> begun(List<CompletableFuture<Runnable>> jobs) {
            return IntStream.range(0, jobs.size()).filter(job -> jobs.get(job).isDone()).boxed()
                    .collect(Collectors.toCollection(TreeSet::new));
        }

        @Test
        void reserveAJobForEachBusySlotEvenIfAnotherWorkerIsFree() {
            int waitedForTheBusyOne = 0;
            for (int seed = 0; seed < 100; seed++) {
                var workers = new SimulatedWorkers(2, 1, seed);
                var jobs = Stream.generate(workers::submit).limit(3).toList();

                assertTrue(jobs.getFirst().isDone());
                assertTrue(begun(jobs).size() <= 2);
                if (!begun(jobs).equals(Set.of(0, 2))) continue;
                waitedForTheBusyOne++;
                jobs.get(2).join().run(); // the free worker's job ends, and nothing else begins there
                assertFalse(jobs.get(1).isDone());
                jobs.get(0).join().run();
                assertTrue(jobs.get(1).isDone());
            }
            assertTrue(waitedForTheBusyOne > 20, waitedForTheBusyOne + " of 100");
        }

        @Test
        void reserveNoMoreThanThatAndTakeTurns() {
            var workers = new SimulatedWorkers(1, 2, 1);
            var jobs = Stream.generate(workers::submit).limit(6).toList();

            for (int ended = 0; ended < 6; ended++) {
                assertEquals(Math.min(6, ended + 2), begun(jobs).size());
                jobs.get(ended).join().run();
            }
        }

        @Test
        void doNotDelayBlockingRuns() throws Exception {
            start(0, "--dify", "1.16.1", "--workers", "1", "--latency", "1ms");
            var streams = new ArrayList<HttpResponse<InputStream>>();
            for (int id = 0; id < 3; id++) streams.add(open(run("s" + id, "[latency 60s]", "streaming")));

            assertTrue(see(run("b", "x", "blocking")).body().contains("succeeded"));
            for (var stream : streams) stream.body().close();
            assertEquals(4, dify.count("started"));
        }
    }

    @Nested
    class AFullDoor extends WithServer {
        @ParameterizedTest
        @ValueSource(strings = {"0", "300ms"})
        void letsARequestInWhoseClientHasLeft(String start) throws Exception {
            start(1, "--dify", "1.16.1", "--latency", "1ms", "--start", start);
            try (var client = HttpClient.newHttpClient()) {
                var first = client.sendAsync(run("a", "[latency 3s]", "blocking").build(),
                        HttpResponse.BodyHandlers.ofString());
                WholeCommand.until("the only place is taken", () -> dify.count("started") == 1);

                try (var leaving = new Socket(server.baseUrl().getHost(), server.baseUrl().getPort())) {
                    leaving.getOutputStream().write(whole("b", "x"));
                    WholeCommand.until("a request waits at the door", () -> server.waiting() == 1);
                }

                assertFalse(first.isDone());
                assertEquals(1, dify.count("started"));
                assertTrue(first.join().body().contains("succeeded"));
            } // an idle connection keeps its place, too
            WholeCommand.until("the request that waited has run", () -> dify.count("succeeded") == 2);
        }
    }

    /// Rows of apps without a workflow. Their time passes faster.
    private abstract static class WithApp extends WithServer {
        private String app;

        void startApp(String app, String... options) throws IOException {
            this.app = app;
            start(0, WholeCommand.words(List.of("--app", app, "--dify", "1.16.1", "--latency", "2s", "--speed", "20"),
                    options));
        }

        /// The row has the id and the user of its question.
        HttpRequest.Builder ask(String question, String mode, String... more) {
            return request(route()).POST(HttpRequest.BodyPublishers.ofString(body(question, mode, more)));
        }

        private String route() {
            return app.equals("completion") ? "/v1/completion-messages" : "/v1/chat-messages";
        }

        private String body(String question, String mode, String... more) {
            return "{'inputs':{'id':'%s','text':'%s'},'query':'%s','response_mode':'%s','user':'%s'%s}"
                    .formatted(question, question, app.equals("completion") ? "" : question, mode, question,
                            String.join("", more)).replace('\'', '"');
        }

        /// Sends a blocking request whose client leaves as soon as the server has it.
        void askAndLeave(String question, WholeCommand.Condition arrived) throws Exception {
            try (var leaving = new Socket(server.baseUrl().getHost(), server.baseUrl().getPort())) {
                leaving.getOutputStream().write(raw(route(), body(question, "blocking")));
                WholeCommand.until("the request has arrived", arrived);
            }
        }

        String mode() {
            return app.startsWith("agent") ? "streaming" : "blocking";
        }

        static List<JsonNode> events(Seen stream) {
            return Recorded.events(stream.body()).stream().filter(JsonNode::isObject).toList();
        }

        /// The only message of this question's user, or a missing node.
        JsonNode message(String question) throws Exception {
            var user = URLEncoder.encode(question, UTF_8);
            var conversation = Given.tree(see(request("/v1/conversations?user=" + user)).body()).at("/data/0/id").asText();
            return conversation.isEmpty() ? MissingNode.getInstance()
                    : Given.tree(see(request("/v1/messages?user=" + user + "&conversation_id=" + conversation)).body())
                            .at("/data/0");
        }

        /// What the ledger says of the question's first run.
        JsonNode row(String question) {
            return Given.JSON.valueToTree(dify.ledger().stats(true)).path("by_row").path(question).at("/runs/0");
        }

        void awaitEnd(String question) throws Exception {
            WholeCommand.until("the end of " + question, () -> dify.ledger().all()
                    .filter(job -> job.row.equals(question)).anyMatch(job -> job.stored.isDone()));
        }

        String stopBody(String user) {
            return Given.json("{'user':'%s'}", user);
        }
    }

    @Nested
    class AnAppWithoutAWorkflow extends WithApp {
        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent", "completion"})
        void storesNothingIfTheClientOfItsStreamLeavesAlthoughTheModelAnswers(String app) throws Exception {
            startApp(app, "--speed", "8");
            var question = "long=30 pause=200 a";
            try (var stream = open(ask(question, "streaming")).body()) {
                stream.read();
            }
            awaitEnd(question);

            assertEquals("succeeded", row(question).path("state").asText());
            assertFalse(row(question).path("stored").asBoolean());
            var message = message(question);
            assertEquals(app.equals("completion"), message.isMissingNode());
            assertEquals("", message.path("answer").asText());
            assertEquals(0, message.path("provider_response_latency").asDouble());
            assertEquals(app.equals("agent-chat"), message.at("/agent_thoughts/0/thought").asText()
                    .endsWith("word29 "));
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "completion"})
        void storesTheAnswerOfABlockingRequestWhoseClientLeaves(String app) throws Exception {
            startApp(app, "--speed", "2");
            askAndLeave("a", () -> dify.count("started") == 1);
            awaitEnd("a");

            WholeCommand.until("the answer", () -> row("a").path("stored").asBoolean());
            assertEquals(app.equals("chat") ? "Answer to: a" : "", message("a").path("answer").asText());
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent", "completion"})
        void storesTheAnswerOfAStreamThatIsNotRead(String app) throws Exception {
            startApp(app);
            try (var stream = open(ask("a", "streaming")).body()) {
                awaitEnd("a");
                WholeCommand.until("the answer", () -> row("a").path("stored").asBoolean());
                assertTrue(stream.read() > 0);
            }
            assertEquals(app.equals("completion") ? "" : "Answer to: a", message("a").path("answer").asText());
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent", "completion"})
        void saysNothingBeforeItsFirstPiece(String app) throws Exception {
            startApp(app, "--latency", "60s");
            long start = System.nanoTime();
            try (var stream = open(ask("a", "streaming")).body()) {
                assertTrue(System.nanoTime() - start > Duration.ofMillis(400).toNanos()); // a ping comes after 10 s
                assertEquals("event: ping\n\n", new String(stream.readNBytes(13), UTF_8));
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent", "completion"})
        void isStoppedOnlyByItsOwnUser(String app) throws Exception {
            startApp(app);
            for (var user : List.of("other", "long=40 pause=200 a")) {
                var question = user.equals("other") ? "long=40 pause=200 b" : user;
                try (var stream = new BufferedReader(new InputStreamReader(open(ask(question, "streaming")).body()))) {
                    var task = Given.tree(stream.readLine().substring(6)).path("task_id").asText();
                    var route = app.equals("completion") ? "/v1/completion-messages/" : "/v1/chat-messages/";
                    assertTrue(see(request(route + task + "/stop").POST(HttpRequest.BodyPublishers.ofString(
                            stopBody(user)))).body().contains("success"));
                    var last = stream.lines().filter(line -> line.startsWith("data: ")).reduce((_, line) -> line)
                            .orElseThrow();
                    var usage = Given.tree(last.substring(6)).at("/metadata/usage");
                    assertEquals(user.equals("other"), usage.path("total_tokens").asInt() > 0, last);
                    assertEquals("1", usage.path("prompt_unit_price").asText());
                }
                awaitEnd(question);
                assertEquals(user.equals("other") ? "succeeded" : "stopped", row(question).path("state").asText());
            }
            assertEquals(2, dify.count("stops"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent", "completion"})
        void endsLikeAStoppedOneWhenItsTimeIsOver(String app) throws Exception {
            startApp(app, "--longest", "3s", "--unpriced");

            var end = events(see(ask("long=40 pause=200 a", "streaming"))).getLast();

            assertEquals("message_end", end.path("event").asText());
            assertEquals("0 0.0", end.at("/metadata/usage/total_tokens").asText() + " "
                    + end.at("/metadata/usage/prompt_unit_price").asText());
            assertEquals("stopped", row("long=40 pause=200 a").path("state").asText());
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent", "completion"})
        void isLostWithItsProcessButNotWithAWorker(String app) throws Exception {
            startApp(app, "--latency", "16s", "--speed", "8");
            try (var stream = open(ask("a", "streaming")).body()) {
                stream.read();
                dify.killWorker();
                dify.endWorker();
                dify.killApi();
                assertThrows(IOException.class, stream::readAllBytes);
            }
            assertEquals("running false", row("a").path("state").asText() + " " + row("a").path("stored").asText());
            assertEquals("", message("a").path("answer").asText());
            if (app.equals("agent")) assertTrue(message("a").at("/agent_thoughts/0/answer").asText()
                    .startsWith("Answer"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "completion"})
        void countsInBothModesWhenRequestsAreLimited(String app) throws Exception {
            startApp(app, "--limit", "1", "--speed", "4");
            try (var stream = open(ask("long=40 pause=200 a", "streaming")).body()) {
                for (var mode : List.of("blocking", "streaming")) {
                    var refused = see(ask("b", mode));
                    assertEquals(400, refused.status());
                    assertTrue(refused.body().contains("Too many requests"));
                }
                stream.readAllBytes();
            }
            WholeCommand.until("a free place", () -> see(ask("b", "streaming")).status() == 200);
            assertEquals(2, dify.count("started"));
        }

        @ParameterizedTest
        @CsvSource({"chat,blocking", "chat,streaming", "agent-chat,streaming", "agent,streaming"})
        void showsATornMessageOnce(String app, String mode) throws Exception {
            startApp(app, "--torn");
            see(ask("a", mode));
            awaitEnd("a");

            var torn = message("a");

            assertEquals("", torn.path("answer").asText());
            assertTrue(torn.path("total_tokens").asInt() > 0, torn::toString);
            assertEquals("Answer to: a", message("a").path("answer").asText());
        }

        @Test
        void asksTheModelForANameUnlessItIsToldNotTo() throws Exception {
            startApp("chat");
            see(ask("a", "blocking", ",'auto_generate_name':false"));
            assertEquals(0, dify.count("names"));
            see(ask("b", "streaming", ",'auto_generate_name':true"));
            see(ask("c", "blocking"));
            assertEquals(2, dify.count("names"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"agent-chat", "agent"})
        void isRefusedInBlockingModeIfItIsAnAgent(String app) throws Exception {
            startApp(app);
            assertEquals(400, see(ask("a", "blocking")).status());
            assertEquals(0, dify.count("started"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"0", "1"})
        void takesOnlyAsManyFilesAsItAllows(String files) throws Exception {
            startApp("chat", "--files", files);
            var two = ",'files':[" + "{'type':'image','transfer_method':'remote_url','url':'http://x/a.png'},".repeat(2)
                    + "{'type':'image'}]";

            assertEquals(files.equals("0") ? 200 : 400, see(ask("a", "blocking", two)).status());
            assertEquals(200, see(ask("b", "blocking", two.replaceFirst("\\{.*?},", ""))).status());

            assertEquals(files, "" + message("b").path("message_files").size());
            assertEquals(files.equals("1"), Given.tree(see(request("/v1/parameters")).body()).at("/file_upload/enabled")
                    .asBoolean());
        }

        @Test
        void hidesTheTextOfAnAnswerThatItStoresTrimmed() throws Exception {
            startApp("chat");
            var live = Given.tree(see(ask("braces a", "blocking")).body()).path("answer").asText();
            assertEquals("  Dear {{name}}, {\"a\":{\"b\":1}}  \n", live);
            assertEquals("Dear {name}, {\"a\":{\"b\":1}}", message("braces a").path("answer").asText());
        }

        @Test
        void waitsAtACrowdedDoorAndRunsAlthoughItsClientHasLeft() throws Exception {
            startApp("chat");
            server.close();
            server = SimulatedServer.start(0, 1, dify);
            try (var stream = open(ask("sleep=10 a", "streaming")).body()) {
                stream.read();
                askAndLeave("b", () -> server.waiting() == 1);
                assertEquals(1, dify.count("started"));
            }
            WholeCommand.until("the row at the door", () -> row("b").path("stored").asBoolean());
        }
    }

    /// Every fault in every app without a workflow: what becomes of the row, and whether a look-up could show it.
    @Tag("slow")
    @Nested
    class AFaultOfAnAppWithoutAWorkflow extends WithApp {
        /// The state of the row, and whether its end is stored.
        private static String expected(String app, Fault fault, String mode) {
            boolean isBlocking = mode.equals("blocking");
            return switch (fault) {
                case DROP_BEFORE, GATEWAY, ERROR_500 -> "succeeded " + isBlocking;
                case DROP_AFTER -> isBlocking ? "succeeded true" : "succeeded true or false";
                case UNRECORDED -> "succeeded " + isBlocking;
                case NEVER, KILL -> "running false";
                case LOST, THROTTLE, REFUSE -> "absent";
                case FAIL, FLAKY -> "failed true";
                case STOPPED, TIME_LIMIT -> "stopped true";
                default -> "succeeded true";
            };
        }

        @ParameterizedTest
        @CsvSource({"chat,blocking", "chat,streaming", "agent-chat,streaming", "agent,streaming",
                "completion,blocking", "completion,streaming"})
        void endsAndIsCounted(String app, String mode) throws Exception {
            startApp(app, "--speed", "15");
            var ends = new TreeMap<String, String>();
            for (var fault : Fault.values()) {
                var question = "[" + fault.word() + "] x";
                boolean isSilent = fault == Fault.NEVER || fault == Fault.FREEZE;
                if (isSilent) assertThrows(HttpTimeoutException.class, () -> http(question, mode));
                else see(ask(question, mode));
                var expected = expected(app, fault, mode);
                if (fault == Fault.NEVER) WholeCommand.until("starting " + question,
                        () -> !row(question).isMissingNode());
                if (!expected.matches("absent|running.*")) {
                    awaitEnd(question);
                    if (expected.endsWith(" true")) WholeCommand.until("storing " + question,
                            () -> row(question).path("stored").asBoolean());
                }
                var end = row(question).isMissingNode() ? "absent"
                        : row(question).path("state").asText() + " " + row(question).path("stored").asText();
                if (!List.of(expected, expected.replaceAll("true or ", ""), expected.replaceAll(" or false", ""))
                        .contains(end)) ends.put(fault.word(), end + ", not " + expected);
            }
            assertEquals(Map.of(), ends);
            assertEquals(0, dify.count("twice"));
        }

        private void http(String question, String mode) throws IOException, InterruptedException {
            try (var body = open(ask(question, mode).timeout(Duration.ofSeconds(5))).body()) {
                if (mode.equals("streaming")) throw new HttpTimeoutException("it began, and is silent");
                body.readAllBytes();
            }
        }
    }

    @Nested
    class ABrokenRouteOfAnAppWithoutAWorkflow extends WithApp {
        @ParameterizedTest
        @EnumSource(names = {"CUT_WITHIN", "HALF_JSON", "NUMBER", "EMPTY", "HTML"})
        void breaksItsStream(Breakage breakage) throws Exception {
            startApp("chat");
            dify.breakRoute(SimulatedRoute.RUN, breakage, 0);

            var stream = see(ask("long=9 a", "streaming"));

            awaitEnd("long=9 a");
            var lines = stream.body().lines().filter(line -> line.startsWith("data: ")).toList();
            switch (breakage) {
                case CUT_WITHIN -> assertTrue(lines.size() <= 3 && stream.problem().isPresent(), stream::toString);
                case HALF_JSON -> assertTrue(lines.size() > 5 && lines.stream().noneMatch(line -> line.endsWith("}")));
                case NUMBER -> assertTrue(lines.getFirst().contains(Breakage.HUGE));
                default -> assertTrue(lines.isEmpty(), stream::toString);
            }
            boolean isWhole = breakage == Breakage.HALF_JSON || breakage == Breakage.NUMBER;
            assertEquals(isWhole, row("long=9 a").path("stored").asBoolean());
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent"})
        void breaksItsLookUps(String app) throws Exception {
            startApp(app);
            see(ask("a", mode()));
            var conversation = message("a").path("conversation_id").asText();
            var messages = "/v1/messages?user=a&conversation_id=" + conversation;

            dify.breakRoute(SimulatedRoute.LIST, Breakage.HALF_JSON, 0);
            dify.breakRoute(SimulatedRoute.MESSAGES, Breakage.HTML, 0);

            assertFalse(see(request("/v1/conversations?user=a")).isJson());
            assertFalse(see(request(messages)).isJson());
            dify.repairRoutes();
            assertTrue(see(request(messages)).isJson());
        }
    }

    /// A chatflow whose time is over responds like a success, with a part of its answer.
    @Nested
    class AChatflowOutOfTime extends WithApp {
        @Test
        void respondsWithAPartOfItsAnswerAndWithoutTokens() throws Exception {
            startApp("chatflow");
            var response = see(ask("[stopped] a long question", "blocking"));
            assertEquals(200, response.status());
            var answer = Given.tree(response.body());
            var whole = "Answer to: [stopped] a long question";
            assertEquals(whole.substring(0, whole.length() / 2), answer.path("answer").asText());
            assertEquals(0, answer.at("/metadata/usage/total_tokens").asInt());
        }
    }
}
