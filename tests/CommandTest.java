package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.github.tomakehurst.wiremock.WireMockServer;
import com.github.tomakehurst.wiremock.client.MappingBuilder;
import com.github.tomakehurst.wiremock.client.ResponseDefinitionBuilder;
import com.github.tomakehurst.wiremock.http.Fault;
import com.github.tomakehurst.wiremock.stubbing.ServeEvent;
import com.github.tomakehurst.wiremock.verification.LoggedRequest;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

import module java.base;

import static difyexec.DifyExec.*;
import static com.github.tomakehurst.wiremock.client.WireMock.aResponse;
import static com.github.tomakehurst.wiremock.client.WireMock.equalTo;
import static com.github.tomakehurst.wiremock.client.WireMock.equalToJson;
import static com.github.tomakehurst.wiremock.client.WireMock.get;
import static com.github.tomakehurst.wiremock.client.WireMock.getRequestedFor;
import static com.github.tomakehurst.wiremock.client.WireMock.matching;
import static com.github.tomakehurst.wiremock.client.WireMock.matchingJsonPath;
import static com.github.tomakehurst.wiremock.client.WireMock.post;
import static com.github.tomakehurst.wiremock.client.WireMock.postRequestedFor;
import static com.github.tomakehurst.wiremock.client.WireMock.urlEqualTo;
import static com.github.tomakehurst.wiremock.client.WireMock.urlPathEqualTo;
import static com.github.tomakehurst.wiremock.client.WireMock.urlPathMatching;
import static com.github.tomakehurst.wiremock.core.WireMockConfiguration.options;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.toMap;
import static org.junit.jupiter.api.Assertions.assertAll;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// The commands as a user types them: exit code, what is printed, and the files. Every call is searched for the key.
@Timeout(90)
class CommandTest {

    static final String KEY = "app-s3cr3t-0f-the-test";

    @TempDir Path folder;

    private final List<AutoCloseable> open = new ArrayList<>();

    @AfterEach
    void close() throws Exception {
        for (var each : open) each.close();
    }

    // ── Helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// JSON with `'` in place of `"`.
    private static String text(String json, Object... values) {
        return ServerTest.Events.json(json, values);
    }

    private static JsonNode tree(String json) throws IOException {
        return ServerTest.JSON.readTree(json);
    }

    private static String keys(JsonNode object) {
        return object.properties().stream().map(Map.Entry::getKey).collect(Collectors.joining(" "));
    }

    private static Map<String, String> settingsFor(ServerTest.Wire wire) {
        return Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", wire.url().toString(), "INITIAL_RETRY_DELAY", "10ms");
    }

    private static boolean isRun(ServeEvent event) {
        return event.getRequest().getUrl().endsWith("/run");
    }

    /// What one call gave.
    record Call(int code, String out, String err) {
        /// What is wrong, in one line of its own.
        String sentence() {
            return err.lines().filter(line -> line.startsWith("difyexec: ") || line.startsWith("Stopped: "))
                    .reduce((_, _) -> "more than one sentence").orElse("none");
        }
    }

    private Call call(Map<String, String> settings, String... args) throws IOException {
        return call(Env.of(settings), args);
    }

    private Call call(Env env, String... args) throws IOException {
        var out = new StringWriter();
        var err = new StringWriter();
        int code = commandLine(env).setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true))
                .execute(args);
        var call = new Call(code, out.toString(), err.toString());
        keyIsNowhere(call);
        return call;
    }

    private void keyIsNowhere(Call call) throws IOException {
        assertFalse((call.out() + call.err()).contains(KEY), call::toString);
        try (var files = Files.walk(folder)) {
            for (var file : files.filter(Files::isRegularFile).filter(path -> !path.endsWith(".env")).toList())
                assertFalse(Files.readString(file, StandardCharsets.ISO_8859_1).contains(KEY), file::toString);
        }
    }

    private Path file(String name) {
        return folder.resolve(name);
    }

    private String input() {
        return file("data.csv").toString();
    }

    private String output() {
        return file("results.jsonl").toString();
    }

    private Path csv(String... lines) throws IOException {
        return Files.writeString(file("data.csv"), String.join("\n", lines) + "\n");
    }

    /// Rows `1` to `count`.
    private Path rows(int count) throws IOException {
        var rows = IntStream.rangeClosed(1, count).mapToObj(id -> id + ",text " + id);
        return csv(Stream.concat(Stream.of("id,text"), rows).toArray(String[]::new));
    }

    /// `run -i data.csv -o results.jsonl` and what else is typed.
    private String[] typed(String command, String... more) {
        return Stream.concat(Stream.of(command, "-i", input(), "-o", output(),
                "--progress", "off"), Stream.of(more)).toArray(String[]::new);
    }

    private String content(String name) throws IOException {
        return Files.exists(file(name)) ? Files.readString(file(name)) : "";
    }

    private List<JsonNode> read(String name) throws IOException {
        var lines = new ArrayList<JsonNode>();
        for (var line : content(name).replace("\uFEFF", "").lines().toList()) lines.add(tree(line));
        return lines;
    }

    private List<JsonNode> results() throws IOException {
        return read("results.jsonl");
    }

    private List<String> ids() throws IOException {
        return results().stream().map(line -> line.path("id").asText()).sorted().toList();
    }

    private JsonNode result(String id) throws IOException {
        return results().stream().filter(line -> line.path("id").asText().equals(id)).toList().getLast();
    }

    private List<JsonNode> events(String event) throws IOException {
        return read("results.jsonl.log").stream().filter(line -> line.path("event").asText().equals(event)).toList();
    }

    /// The ids of the attempts since the session with this number, from 1.
    private List<String> attempts(int session) throws IOException {
        var ids = new ArrayList<String>();
        int sessions = 0;
        for (var line : read("results.jsonl.log")) {
            if (line.path("event").asText().equals("session")) sessions++;
            if (sessions >= session && line.path("event").asText().equals("attempt")) ids.add(line.path("id").asText());
        }
        return ids.stream().sorted().toList();
    }

    /// `succeeded=2 pending=1`, without what is 0.
    private String standing() throws IOException {
        var call = call(Map.of(), "status", "--json", "-i", input(), "-o", output());
        var json = tree(call.out());
        return Stream.of("succeeded", "partial", "failed", "paused", "unknown", "pending")
                .filter(word -> json.path(word).asInt() > 0).map(word -> word + "=" + json.path(word).asInt())
                .collect(Collectors.joining(" "));
    }

    private Set<String> names() throws IOException {
        try (var files = Files.list(folder)) {
            return files.map(path -> path.getFileName().toString()).collect(Collectors.toCollection(TreeSet::new));
        }
    }

    /// A Dify of one version as WireMock plays it: every row succeeds with its id as output unless told otherwise.
    final class Dify implements AutoCloseable {
        final WireMockServer server = new WireMockServer(options().dynamicPort().bindAddress("127.0.0.1"));
        final String version, mode;
        private int told = 0;

        Dify(String version, String mode) {
            this.version = version;
            this.mode = mode;
            server.start();
            open.add(this);
            info(answer(200, text("{'name':'echo','description':'','tags':[],'mode':'workflow'}")));
            server.stubFor(get(urlEqualTo("/v1/parameters")).willReturn(answer(200, "{\"user_input_form\":[]}")));
            server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(answer(200, "{\"data\":[]}")));
            server.stubFor(get(urlPathMatching("/v1/workflows/run/.*")).willReturn(version.equals("1.9.2")
                    ? answer(200, "{\"id\":null,\"status\":null}")
                    : refused(404, "not_found", "Workflow run not found.")));
            server.stubFor(post(urlPathEqualTo("/v1/workflows/run")).atPriority(9).willReturn(ended("succeeded", "")));
        }

        String url() {
            return "http://127.0.0.1:" + server.port() + "/v1";
        }

        Map<String, String> settings(String... more) {
            var settings = new HashMap<>(Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", url(),
                    "INITIAL_RETRY_DELAY", "10ms", "MAX_RETRY_DELAY", "20ms"));
            for (int i = 0; i < more.length; i += 2) settings.put(more[i], more[i + 1]);
            return settings;
        }

        Call run(String... more) throws IOException {
            return command("run", more);
        }

        Call command(String command, String... more) throws IOException {
            var typed = new ArrayList<>(List.of(typed(command, more)));
            if (!typed.contains("--mode")) typed.addAll(List.of("--mode", mode));
            return call(settings(), typed.toArray(String[]::new));
        }

        void info(ResponseDefinitionBuilder answer) {
            server.stubFor(get(urlEqualTo("/v1/info")).willReturn(answer));
        }

        /// All answers to a row, one after the other; the last one stays.
        void row(String id, ResponseDefinitionBuilder... answers) {
            var scenario = "row " + id + " as told by call " + ++told;
            for (int i = 0; i < answers.length; i++) {
                var stub = ofRow(id).inScenario(scenario).whenScenarioStateIs(i == 0 ? "Started" : "answer " + i);
                if (i < answers.length - 1) stub.willSetStateTo("answer " + (i + 1));
                server.stubFor(stub.atPriority(1).willReturn(answers[i]));
            }
        }

        private MappingBuilder ofRow(String id) {
            return post(urlPathMatching("/v1/workflows/(.+/)?run"))
                    .withRequestBody(matchingJsonPath("$.inputs.id", equalTo(id)));
        }

        void rows(ResponseDefinitionBuilder answer) {
            server.stubFor(post(urlPathMatching("/v1/workflows/(.+/)?run")).atPriority(3).willReturn(answer));
        }

        /// What the server's records say of a row's run, whatever its user.
        void recorded(String id, String status) {
            server.stubFor(get(urlEqualTo("/v1/workflows/run/run-" + id)).willReturn(answer(200, text(
                    "{'id':'run-%s','workflow_id':'w','status':'%s','outputs':{'row_id':'%s','from':'record'},"
                            + "'error':null,'elapsed_time':2.5,'total_tokens':3,'total_steps':3}", id, status, id))));
        }

        /// The log leads from the user of the one row that was sent to its run.
        void listed(String id) {
            server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(answer(200, text(
                    "{'data':[{'workflow_run':{'id':'run-%s','status':'running'},'created_by_end_user':"
                            + "{'session_id':'{{request.query.created_by_end_user_session_id}}'}}]}", id))));
        }

        ResponseDefinitionBuilder answer(int status, String body) {
            return aResponse().withStatus(status).withHeader("Content-Type", "application/json")
                    .withHeader("X-Version", version).withBody(body).withTransformers("response-template");
        }

        ResponseDefinitionBuilder refused(int status, String code, String message) {
            return answer(status, ServerTest.JSON.createObjectNode().put("code", code).put("message", message)
                    .put("status", status).toString());
        }

        /// A run that came to its end, told as the mode tells it.
        ResponseDefinitionBuilder ended(String status, String error) {
            var id = "{{jsonPath request.body '$.inputs.id'}}";
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

    private Dify dify() {
        return new Dify("1.14.2", "blocking");
    }

    @Nested
    class AStreamThatContradictsItself {
        private final Dify dify = new Dify("1.16.0", "streaming");

        private static String event(String name, String run, String data) {
            return text("data: {'event':'%s','workflow_run_id':'run-%s','task_id':'run-%s',"
                    + "'data':{'id':'run-%s'%s}}\n\n", name, run, run, run, data);
        }

        private static String succeeded(String run) {
            return event("workflow_finished", run,
                    text(",'status':'succeeded','outputs':{'from':'stream'},'total_steps':3"));
        }

        /// As 1.16.0 makes an end up.
        private static String madeUp(String run, String error) {
            return event("workflow_finished", run, text(",'status':'failed','outputs':null,'error':'%s',"
                    + "'elapsed_time':0.0,'total_tokens':0,'total_steps':0,'created_by':{}", error));
        }

        private static String error(String message) {
            return text("data: {'event':'error','message':'%s','status':500}\n\n", message);
        }

        /// Its run is recorded as running for the first looks, and as succeeded after them.
        private void goesOn(String id) {
            dify.recorded(id, "succeeded");
            for (int look = 0; look < 3; look++) dify.server.stubFor(get(urlEqualTo("/v1/workflows/run/run-" + id))
                    .atPriority(1).inScenario("run " + id).whenScenarioStateIs(look == 0 ? "Started" : "look " + look)
                    .willSetStateTo("look " + (look + 1)).willReturn(dify.answer(200,
                            text("{'id':'run-%s','status':'running','outputs':{}}", id))));
        }

        @ParameterizedTest
        @ValueSource(strings = {"another run's end", "an error, then success", "an error and a made-up end",
            "failed, then success", "failed while it goes on", "failed by what would pass, while it goes on"})
        void isSettledByItsOwnRunWhichIsStartedOnce(String how) throws IOException {
            csv("id,text", "1,x");
            var start = event("workflow_started", "1", "");
            dify.row("1", dify.stream(start + switch (how) {
                case "another run's end" -> succeeded("2");
                case "an error, then success" -> error("x is required in input form") + succeeded("1");
                case "an error and a made-up end" -> error("x is required in input form") + madeUp("1", "no end");
                case "failed, then success" -> madeUp("1", "Rate Limit Error") + succeeded("1");
                case "failed while it goes on" -> madeUp("1", "Workflow stream ended without a terminal event");
                default -> madeUp("1", "Rate Limit Error");
            }));
            goesOn("1");

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertEquals(1, dify.runs());
            assertEquals("run-1", result("1").path("workflow_run_id").asText());
            assertEquals("record", result("1").at("/outputs/from").asText());
        }

        @Test
        void fallsBackOnTheWordsOfAFailureThatWasNeverStored() throws IOException {
            csv("id,text", "1,x", "2,x");
            dify.row("1", dify.stream(event("workflow_started", "1", "") + madeUp("1", "x is required in input form")));
            dify.row("2", dify.stream(event("workflow_started", "2", "") + madeUp("2", "Connection refused")),
                    dify.ended("succeeded", ""));

            var call = dify.run();

            assertEquals(3, call.code(), call.err());
            assertTrue(call.err().contains("x is required in input form"), call.err());
            assertEquals(3, dify.runs());
            assertEquals("2", result("2").at("/outputs/row_id").asText());
        }

        @Test
        void keepsTheWordsOfAnErrorBeforeAMadeUpEndThatWasNeverStored() throws IOException {
            csv("id,text", "1,x", "2,x");
            dify.rows(dify.stream(text("data: {'event':'error','workflow_run_id':null,'code':'invalid_param',"
                    + "'status':400,'message':'No class mapping found for node type: x'}\n\n")
                    + event("workflow_started", "9", "")
                    + madeUp("9", "Workflow stream ended without a terminal event")));

            var call = dify.run("-c", "1");

            assertEquals(4, call.code(), call.err());
            assertTrue(call.err().contains("No class mapping found for node type: x"), call.err());
            assertEquals(1, dify.runs());
        }
    }

    // ── Demo ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheDemo {
        private static final String MODES = """
                demo,          mode
                --demo,        blocking
                --demo,        streaming
                --demo=1.14.2, blocking
                --demo=1.14.2, streaming
                --demo=1.9.2,  blocking
                --demo=1.9.2,  streaming
                """;

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = MODES)
        void everyRowHasItsOwnOutcome(String demo, String mode) throws IOException {
            csv("id,name,text", "9,Zoë,[fail] at first", "2,Bob,\"a, \"\"b\"\"\nあ😀\"", "7,İı,[flaky] then fine",
                    "x y,,plain", "1,Ann,[fail] as well");

            var call = call(Map.of(), typed("run", demo, "--mode", mode, "--initial-retry-delay", "10ms"));

            assertEquals(3, call.code(), call.err());
            assertEquals("", call.out());
            assertEquals(List.of("2", "7", "x y"), ids());
            for (var line : results()) assertEquals(line.path("id"), line.path("outputs").path("row_id"));
            assertEquals("Demo answer to: a, \"b\"\nあ😀", result("2").path("outputs").path("answer").asText());
            assertEquals(Map.of("2", 0, "7", 1, "x y", 0), results().stream()
                    .collect(toMap(line -> line.path("id").asText(), line -> line.path("retry_count").asInt())));
            assertEquals("9\n1\n", content("results.jsonl.retry"), "in the order of the CSV");
            assertEquals("succeeded=3 failed=2", standing());
            assertEquals(6, events("attempt").size());
            for (var attempt : events("attempt")) assertEquals(mode, attempt.path("mode").asText());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = MODES)
        void aRunWhoseConnectionDroppedIsLookedUpAndNotRunAgain(String demo, String mode) throws IOException {
            csv("id,text", "1,[drop] me", "2,plain");

            var call = call(Map.of(), typed("run", demo, "--mode", mode));

            assertEquals(0, call.code(), call.err());
            assertEquals(List.of("1", "2"), ids());
            assertEquals("1", result("1").path("outputs").path("row_id").asText());
            assertEquals(2, events("attempt").size());
            assertEquals(1, events("harvest").size());
        }

        @Test
        void aResultHasTheseFieldsInThisOrder() throws IOException {
            csv("id,text", "1,あ");

            call(Map.of(), typed("run", "--demo", "--mode", "streaming"));

            assertEquals("id status inputs outputs workflow_run_id executed_at retry_count workflow_status workflow_id "
                    + "elapsed_time total_tokens total_steps total_price currency", keys(result("1")));
            assertEquals("success", result("1").path("status").asText());
            assertEquals("{\"id\":\"1\",\"text\":\"あ\"}", result("1").path("inputs").toString());
            assertEquals("succeeded", result("1").path("workflow_status").asText());
            assertTrue(result("1").path("executed_at").asText().matches("\\d{4}-\\d\\d-\\d\\dT[0-9:]{8}(\\.\\d{3})?Z"));
            assertTrue(content("results.jsonl").contains("\"text\":\"あ\""), "readable, not escaped");
        }

        @Test
        void resultsBeginWithAByteOrderMarkUnlessItIsUnwanted() throws IOException {
            csv("id,text", "1,x");
            call(Map.of(), typed("run", "--demo"));
            assertTrue(content("results.jsonl").startsWith("\uFEFF{"));
            assertEquals(1, content("results.jsonl").chars().filter(c -> c == 0xFEFF).count());

            call(Map.of(), typed("run", "--demo", "--fresh", "--no-bom"));

            assertTrue(content("results.jsonl").startsWith("{"));
        }

        @Test
        void itSaysThatItIsOneAndAsksForNoKey() throws IOException {
            csv("id,text", "1,x");

            var call = call(Map.of(), typed("run", "--demo=1.9.2"));

            assertEquals(0, call.code());
            assertTrue(call.err().startsWith("Demo: a simulated Dify 1.9.2 "), call.err());
            assertTrue(call.err().contains("1 succeeded in "), call.err());
            assertEquals("1.9.2", events("session").getFirst().path("server").asText());
        }

        @Test
        void theNextCommandIsTheOneToType() throws IOException {
            csv("id,text", "1,[fail]");

            var call = call(Map.of(), typed("run", "--demo=1.9.2"));

            var next = call.err().lines().filter(line -> line.startsWith("Next: difyexec ")).findFirst().orElseThrow();
            var again = call(Map.of(), next.replace("Next: difyexec ", "").split(" "));
            assertEquals(3, again.code(), again.err());
            assertEquals(List.of("1"), attempts(2));
        }
    }

    // ── Again ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheSecondCall {
        private final Dify dify = dify();

        private void firstRun() throws IOException {
            rows(4);
            dify.row("2", dify.ended("failed", "no"));
            dify.row("4", dify.ended("failed", "no"));
            assertEquals(3, dify.run().code());
            dify.row("2", dify.ended("succeeded", ""));
            dify.row("4", dify.ended("succeeded", ""));
            dify.server.resetRequests();
        }

        @Test
        void runAsksOnlyForRowsWithoutASuccess() throws IOException {
            firstRun();

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertEquals(List.of("2", "4"), attempts(2));
            assertEquals(2, dify.runs());
            assertEquals(List.of("1", "2", "3", "4"), ids());
            assertFalse(Files.exists(file("results.jsonl.retry")));
        }

        @Test
        void aFinishedBatchSendsNothing() throws IOException {
            rows(2);
            dify.run();
            dify.server.resetRequests();
            var before = content("results.jsonl");

            var call = dify.run();

            assertEquals(0, call.code());
            assertTrue(call.err().contains("Nothing to do"), call.err());
            assertEquals(0, dify.requests());
            assertEquals(before, content("results.jsonl"));
        }

        @Test
        void retryAsksOnlyForTheListedIds() throws IOException {
            firstRun();
            Files.writeString(file("results.jsonl.retry"), "4\n");

            var call = dify.command("retry");

            assertEquals(0, call.code(), call.err());
            assertEquals(List.of("4"), attempts(2));
            assertEquals("succeeded=3 failed=1", standing());
            assertEquals("2\n", content("results.jsonl.retry"));
        }

        @Test
        void retryWithoutAListHasNothingToDo() throws IOException {
            rows(1);
            dify.run();

            assertEquals(0, dify.command("retry").code());
            assertEquals(1, dify.runs());
        }

        @Test
        void retryTakesNamedIds() throws IOException {
            firstRun();

            assertEquals(0, dify.command("retry", "4").code());

            assertEquals(List.of("4"), attempts(2));
        }

        @Test
        void retryOfASuccessWantsForce() throws IOException {
            firstRun();

            var refused = dify.command("retry", "3");
            assertEquals(2, refused.code());
            assertTrue(refused.sentence().contains("row 3 has a success already; --force"), refused.err());
            assertEquals(0, dify.runs());

            var forced = dify.command("retry", "3", "--force");
            assertEquals(0, forced.code(), forced.err());
            assertEquals(1, dify.runs());
            assertEquals(List.of("1", "3", "3"), ids());
            assertEquals("succeeded=2 failed=2", standing());
        }

        @Test
        void retryOfAnUnknownIdNamesIt() throws IOException {
            firstRun();

            var call = dify.command("retry", "99");

            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("\"99\""), call.err());
            assertEquals(0, dify.requests());
        }

        @Test
        void aForcedRunThatFailsLeavesTheSuccess() throws IOException {
            rows(1);
            dify.run();
            dify.row("1", dify.ended("failed", "no"));

            assertEquals(3, dify.command("retry", "1", "--force").code());

            assertEquals("succeeded=1", standing());
            assertEquals(List.of("1"), ids());
        }

        @Test
        void eachAttemptHasAUserOfItsOwn() throws IOException {
            rows(5);
            dify.row("3", dify.ended("failed", "rate limit"), dify.ended("succeeded", ""));
            dify.run();

            var users = dify.server.getAllServeEvents().stream().filter(CommandTest::isRun).map(this::user).toList();

            assertEquals(6, users.size());
            assertEquals(6, Set.copyOf(users).size());
        }

        private String user(ServeEvent event) {
            try {
                return tree(event.getRequest().getBodyAsString()).path("user").asText();
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }
    }

    // ── Status ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheStatus {
        private final Dify dify = dify();

        private Call status(String... more) throws IOException {
            return call(Map.of(), Stream.concat(Stream.of("status", "-o", output()), Stream.of(more))
                    .toArray(String[]::new));
        }

        private void batch() throws IOException {
            rows(5);
            dify.row("1", dify.ended("partial-succeeded", ""));
            dify.row("2", dify.ended("failed", "boom 17"));
            dify.row("3", dify.ended("paused", ""));
            dify.run("--limit", "4");
            dify.close();
        }

        @Test
        void jsonHasExactlyTheseKeys() throws IOException {
            batch();

            var call = status("--json", "-i", input());

            assertEquals(3, call.code());
            assertEquals("", call.err());
            var json = tree(call.out());
            assertEquals("total succeeded partial failed paused unknown pending attempts retries total_tokens "
                    + "started_at updated_at errors running_seconds rows_per_second seconds cost in_flight late "
                    + "lost_results unread_lines ids_not_in_input missing_files", keys(json));
            assertEquals("[5, 1, 1, 1, 1, 0, 1, 4, 0, 40]", json.properties().stream().limit(10)
                    .map(Map.Entry::getValue).toList().toString());
            var began = Instant.parse(json.path("started_at").asText());
            assertFalse(Instant.parse(json.path("updated_at").asText()).isBefore(began));
            assertEquals(1, call.out().lines().count());
        }

        @Test
        void errorsAreGroupedByCauseWithTheirIds() throws IOException {
            rows(4);
            for (var id : List.of("1", "2", "4")) dify.row(id, dify.ended("failed", "boom in line 1" + id));
            dify.run();

            var errors = tree(status("--json", "-i", input()).out()).path("errors");

            assertEquals("[{\"outcome\":\"failed\",\"cause\":\"boom in line …\",\"count\":3,\"ids\":[\"1\",\"2\",\"4\"]}]", errors.toString());
        }

        @Test
        void withoutTheInputThereIsNothingPending() throws IOException {
            batch();

            var json = tree(status("--json").out());

            assertEquals("4 0", json.path("total") + " " + json.path("pending"));
        }

        @Test
        void inWordsItEndsWithTheNextCommand() throws IOException {
            batch();

            var call = status("-i", input());

            assertEquals(3, call.code());
            for (var word : List.of("5 rows", "succeeded", "partial", "failed", "paused", "pending", "boom"))
                assertTrue(call.out().contains(word), word);
            assertTrue(call.out().lines().toList().getLast().startsWith("Next: difyexec run -i "), call.out());
            assertFalse(call.out().contains("unknown"), call.out());
        }

        @Test
        void aCompleteBatchIsZero() throws IOException {
            rows(2);
            dify.run();

            assertEquals(0, status("-i", input()).code());
            assertEquals(0, status("--json").code());
        }

        @Test
        void aBatchThatIsNotThereIsNamed() throws IOException {
            var call = status("--json");

            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("results.jsonl: no such batch"), call.err());
            assertEquals("", call.out());
        }

        @Test
        void itWritesNothing() throws IOException {
            batch();
            Files.delete(file("results.jsonl.lock"));
            var before = List.of(content("results.jsonl"), content("results.jsonl.log"), names());

            status("-i", input());

            assertEquals(before, List.of(content("results.jsonl"), content("results.jsonl.log"), names()));
        }
    }

    // ── What a row meets ────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ARow {
        private static final String SERVERS = """
                version, mode
                1.9.2,   blocking
                1.9.2,   streaming
                1.14.2,  blocking
                1.14.2,  streaming
                """;

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = SERVERS)
        void thatSucceedsInPartIsKeptAndFlagged(String version, String mode) throws IOException {
            var dify = new Dify(version, mode);
            rows(2);
            dify.row("2", dify.ended("partial-succeeded", ""));

            assertEquals(0, dify.run().code());

            assertEquals("partial-succeeded", result("2").path("workflow_status").asText());
            assertEquals("{\"row_id\":\"2\"}", result("2").path("outputs").toString());
            assertEquals("succeeded=1 partial=1", standing());
            assertEquals(0, dify.run().code());
            assertEquals(2, dify.runs(), "a partial success is a success");
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = SERVERS)
        void thatWaitsForAHumanIsLookedUpAndNotSentAgain(String version, String mode) throws IOException {
            var dify = new Dify(version, mode);
            rows(2);
            dify.row("2", dify.ended("paused", ""));
            dify.recorded("2", "paused");

            assertEquals(3, dify.run().code());
            assertEquals("succeeded=1 paused=1", standing());
            assertEquals("2\n", content("results.jsonl.retry"));
            assertEquals(3, dify.run().code());
            assertEquals("succeeded=1 paused=1", standing());
            dify.recorded("2", "succeeded");
            assertEquals(0, dify.run().code());

            assertEquals("record", result("2").path("outputs").path("from").asText());
            assertEquals(2, dify.runs());
            assertFalse(Files.exists(file("results.jsonl.retry")));
        }

        @ParameterizedTest
        @ValueSource(strings = {"text is required in input form", "text in input form must be less than 8 characters",
            "lang in input form must be one of the following: ['en', 'ja']", "num in input form must be a valid number",
            "(type 'select') lang in input form must be a string", "doc in input form must be a list of files",
            "Invalid upload file", "File validation failed for file: a.txt"})
        void whoseDataAreRefusedFailsAndTheOthersGoOn(String message) throws IOException {
            var dify = dify();
            rows(3);
            dify.row("2", dify.refused(400, "invalid_param", message));

            var call = dify.run();

            assertEquals(3, call.code());
            assertEquals("succeeded=2 failed=1", standing());
            assertEquals(3, dify.runs());
            assertTrue(call.err().contains(message + " (2)"), call.err());
            assertEquals("2\n", content("results.jsonl.retry"));
        }

        @Test
        void whoseDataAreRefusedInsideAStreamFailsAndIsNotLookedUp() throws IOException {
            var dify = new Dify("1.14.2", "streaming");
            rows(3);
            dify.row("2", dify.stream(text(
                    "data: {'event':'error','message':'text is required in input form','status':500}\n\n")));

            assertEquals(3, dify.run().code());

            assertEquals("succeeded=2 failed=1", standing());
            assertEquals(5, dify.requests(), "two questions and three runs");
            assertTrue(events("end").stream().anyMatch(end -> end.path("outcome").asText().equals("failed")
                    && end.path("error").asText().equals("text is required in input form")));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = SERVERS)
        void thatIsThrottledWaitsAndLosesNoRetry(String version, String mode) throws IOException {
            var dify = new Dify(version, mode);
            rows(3);
            dify.row("2", dify.refused(400, "invalid_param", "Too many requests. Please try again later."),
                    dify.ended("succeeded", ""));

            assertEquals(0, dify.run("--max-retries", "0").code());

            assertEquals(0, result("2").path("retry_count").asInt());
            assertEquals(4, dify.runs());
            assertEquals(1, events("throttle").size());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = SERVERS)
        void thatFailsInPassingIsTriedAgain(String version, String mode) throws IOException {
            var dify = new Dify(version, mode);
            rows(3);
            dify.row("2", dify.ended("failed", "[openai] Rate Limit Error, 429"), dify.ended("succeeded", ""));

            assertEquals(0, dify.run().code());

            assertEquals(1, result("2").path("retry_count").asInt());
            assertEquals(0, result("1").path("retry_count").asInt());
            assertEquals(4, dify.runs());
        }

        @Test
        void hasSoManyFurtherAttemptsAsAreAllowed() throws IOException {
            var dify = dify();
            rows(1);
            dify.row("1", dify.ended("failed", "Connection Error"));

            assertEquals(3, dify.run("--max-retries", "2").code());

            assertEquals(3, dify.runs());
            assertEquals("failed=1", standing());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                when,      error,                  runs
                never,     [openai] Rate Limit,    1
                transient, [openai] Rate Limit,    2
                transient, the model said no,      1
                always,    the model said no,      2
                """)
        void thatFailedIsRunAgainOnlyAsAllowed(String when, String error, int runs) throws IOException {
            var dify = dify();
            rows(1);
            dify.row("1", dify.ended("failed", error));

            dify.run("--retry-failed-runs", when, "--max-retries", "1");

            assertEquals(runs, dify.runs());
        }

        @Test
        void whoseAnswerAProxyCutIsTakenFromTheRecord() throws IOException {
            var dify = dify();
            rows(1);
            dify.row("1", aResponse().withStatus(502).withBody("<html>Bad Gateway</html>"));
            dify.listed("1");
            dify.recorded("1", "succeeded");

            assertEquals(0, dify.run().code());

            assertEquals(1, dify.runs());
            assertEquals("record", result("1").path("outputs").path("from").asText());
            assertEquals("run-1", result("1").path("workflow_run_id").asText());
        }

        @Test
        void thatLeftNoTraceIsSentAgainWhereRunsAreListedFromTheirStart() throws IOException {
            var dify = dify();
            rows(1);
            dify.row("1", aResponse().withFault(Fault.EMPTY_RESPONSE), dify.ended("succeeded", ""));

            assertEquals(0, dify.run("--settle", "100ms").code());

            assertEquals(2, dify.runs());
            assertEquals(1, result("1").path("retry_count").asInt());
            assertEquals("not_started", events("end").getFirst().path("outcome").asText());
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void thatLeftNoTraceIsUnknownWhereRunsAreListedAtTheirEnd(String mode) throws IOException {
            var dify = new Dify("1.9.2", mode);
            rows(1);
            dify.row("1", aResponse().withFault(Fault.EMPTY_RESPONSE), dify.ended("succeeded", ""));

            var call = dify.run("--settle", "50ms", "--timeout", "600ms");

            assertEquals(3, call.code(), call.err());
            assertEquals("unknown=1", standing());
            assertEquals("1\n", content("results.jsonl.retry"));
            assertEquals(3, dify.run("--timeout", "600ms").code());
            assertEquals(1, dify.runs(), "never sent again by itself");
            assertEquals(0, dify.run("--timeout", "600ms", "--resend-unknown").code());
            assertEquals(2, dify.runs());
        }

        @Test
        void ofAStreamThatWasCutIsFoundByItsRun() throws IOException {
            var dify = new Dify("1.9.2", "streaming");
            rows(1);
            dify.row("1", dify.stream(text("data: {'event':'workflow_started','workflow_run_id':'run-1'}\n\n")));
            dify.recorded("1", "succeeded");

            assertEquals(0, dify.run().code());

            assertEquals(1, dify.runs());
            assertEquals("record", result("1").path("outputs").path("from").asText());
            dify.server.verify(0, getRequestedFor(urlPathEqualTo("/v1/workflows/logs")));
        }

        @Test
        void thatTakesTooLongIsStoppedAndHasFailed() throws IOException {
            try (var wire = new ServerTest.Wire(connection -> {
                while (connection.request()) {
                    if (connection.last.startsWith("GET /v1/info")) connection.answer("{\"mode\":\"workflow\"}");
                    else if (connection.last.contains("/stop")) connection.answer("{\"result\":\"success\"}");
                    else if (connection.last.startsWith("GET ")) connection.answer(text("{'id':'%s','status':'stopped',"
                            + "'outputs':{},'error':'Aborted: User requested stop'}", ServerTest.Events.RUN));
                    else {
                        connection.startStream();
                        connection.chunk(ServerTest.Events.started());
                        connection.hold();
                    }
                }
            })) {
                rows(1);

                var call = call(settingsFor(wire), typed("run", "--mode", "streaming", "--timeout", "0.3"));

                assertEquals(3, call.code(), call.err());
                assertEquals("failed=1", standing());
                for (var path : List.of("/workflows/tasks/" + ServerTest.Events.TASK + "/stop", "/workflows/run"))
                    assertEquals(1, wire.requests.stream().filter(request -> request.contains(path + " HTTP")).count());
                assertTrue(call.err().contains("timed out"), call.err());
            }
        }
    }

    // ── What stops a batch ──────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheServer {
        private static final int SLOTS = 2;
        private final Dify dify = dify();

        /// Stopped early, with a sentence that has the remedy; nobody failed, and little was sent.
        private void stopped(Call call, String... words) throws IOException {
            assertEquals(4, call.code(), call.err());
            for (var word : words) assertTrue(call.sentence().contains(word), () -> word + " in " + call.sentence());
            assertFalse(call.err().contains("\tat "), call.err());
            assertTrue(dify.requests() <= SLOTS + 3, () -> dify.requests() + " requests");
            assertFalse(Files.exists(file("results.jsonl.retry")));
            assertFalse(call.err().contains("failed"), call.err());
            if (Files.exists(file("results.jsonl.log"))) assertEquals("pending=20", standing());
        }

        private Call run(String... more) throws IOException {
            rows(20);
            return dify.run(Stream.concat(Stream.of("-c", "" + SLOTS), Stream.of(more)).toArray(String[]::new));
        }

        @Test
        void thatRefusesSomeRunsIsSaidToHaveSlowedTheBatchDown() throws IOException {
            rows(4);
            dify.row("2", dify.refused(429, "too_many_requests", "Too many requests."), dify.ended("succeeded", ""));

            var call = dify.run("-c", "2");

            assertEquals(0, call.code(), call.err());
            assertTrue(call.err().contains("  throttled 1 time, ran at 1 of 2"), call.err());
        }

        @Test
        void refusesTheKey() throws IOException {
            dify.info(dify.refused(401, "unauthorized", "Access token is invalid"));
            dify.rows(dify.refused(401, "unauthorized", "Access token is invalid"));

            stopped(run(), "401", "DIFY_API_KEY");

            assertEquals(0, dify.runs());
        }

        @Test
        void hasItsApiSwitchedOff() throws IOException {
            dify.info(dify.refused(403, "forbidden", "The app's API service has been disabled."));

            stopped(run(), "The app's API service has been disabled.", "switch");

            assertEquals(0, dify.runs());
        }

        @Test
        void hasNothingPublished() throws IOException {
            dify.rows(dify.refused(400, "invalid_param", "Workflow not published"));

            stopped(run(), "publish");
        }

        @Test
        void hasAnAppOfAnotherKind() throws IOException {
            dify.info(dify.answer(200, "{\"name\":\"bot\",\"mode\":\"advanced-chat\"}"));

            stopped(run(), "advanced-chat", "workflow app");

            assertEquals(0, dify.runs());
        }

        @Test
        void hasAnAppOfAnotherKindAndSaysSoOnlyToARun() throws IOException {
            dify.rows(dify.refused(400, "not_workflow_app", "Please check if your app mode matches the API route."));

            stopped(run(), "workflow app");
        }

        @Test
        void isNoDify() throws IOException {
            dify.info(aResponse().withStatus(404).withBody("<html><title>404 Not Found</title></html>"));

            stopped(run(), dify.url(), "DIFY_API_BASE_URL", "/v1");

            assertEquals(0, dify.runs());
        }

        @Test
        void answersWithAPage() throws IOException {
            dify.info(aResponse().withHeader("Content-Type", "text/html").withBody("<html>Sign in</html>"));

            stopped(run(), dify.url(), "DIFY_API_BASE_URL");

            assertEquals(0, dify.runs());
        }

        @Test
        void answersEverythingWithSomeJson() throws IOException {
            dify.info(dify.answer(200, "{\"status\":\"ok\"}"));

            stopped(run(), dify.url(), "not as Dify's API does", "DIFY_API_BASE_URL");

            assertEquals(1, dify.requests());
        }

        @ParameterizedTest
        @ValueSource(ints = {200, 404})
        void isNoDifyAtAnAddressWithoutAPath(int status) throws IOException {
            var address = dify.url().replace("/v1", "");
            dify.server.stubFor(get(urlEqualTo("/info")).willReturn(aResponse().withStatus(status)
                    .withHeader("Content-Type", "text/html").withBody("<html>Dify</html>")));

            stopped(run("--base-url", address), address, "it has no path", "set DIFY_API_BASE_URL to " + dify.url());

            assertEquals(0, dify.runs());
        }

        @Test
        void mayServeItsApiWithoutAPath() throws IOException {
            try (var wire = new ServerTest.Wire(connection -> {
                while (connection.request()) connection.answer(connection.last.startsWith("GET ")
                        ? "{\"mode\":\"workflow\",\"user_input_form\":[]}" : ServerTest.Events.blocking("{}"));
            })) {
                rows(1);

                var call = call(settingsFor(wire), typed("run", "--base-url", wire.url().resolve("/").toString()));

                assertEquals(0, call.code(), call.err());
                assertTrue(wire.requests.getLast().startsWith("POST /workflows/run "), wire.requests.getLast());
            }
        }

        @Test
        void hasANameThatNobodyKnows() throws IOException {
            var name = "a".repeat(64) + ".test"; // too long for a name: nobody is asked for it

            var call = run("--base-url", "http://" + name + "/v1", "--max-retries", "0");

            stopped(call, name, "unknown host", "DIFY_API_BASE_URL");
        }

        @Test
        void doesNotKnowThePinnedVersion() throws IOException {
            var version = "5e0dfc88-8475-4946-a840-d85d8e9e04d1";
            dify.rows(dify.refused(404, "not_found", "Workflow not found with id: " + version));

            stopped(run("--workflow-id", version), "DIFY_WORKFLOW_ID", version, "leave it empty");

            dify.server.verify(dify.runs(), postRequestedFor(urlEqualTo("/v1/workflows/" + version + "/run")));
        }

        @Test
        void doesNotTakeThePinnedVersionForOne() throws IOException {
            dify.rows(dify.refused(400, "bad_request", "Invalid workflow_id format: 'abc'. "));

            stopped(run("--workflow-id", "abc"), "DIFY_WORKFLOW_ID", "leave it empty");
        }

        @Test
        void redirects() throws IOException {
            dify.info(aResponse().withStatus(308).withHeader("Location", "https://dify.example/v1/info"));

            stopped(run(), "https://dify.example/v1", "DIFY_API_BASE_URL");

            assertEquals(0, dify.runs());
        }

        @Test
        void hasUsedItsQuotaUp() throws IOException {
            dify.rows(dify.refused(429, "rate_limit_error", "Workflow execution quota limit reached for tenant t"));

            stopped(run(), "quota");
        }

        @Test
        void isNotThere() throws IOException {
            var settings = dify.settings();
            dify.close();

            rows(20);

            var call = call(settings, typed("run", "--max-retries", "2"));

            assertEquals(4, call.code());
            for (var word : List.of(settings.get("DIFY_API_BASE_URL"), "3 tries", "the network"))
                assertTrue(call.sentence().contains(word), call.err());
            assertEquals("", content("results.jsonl.log"));
            assertFalse(Files.exists(file("results.jsonl.retry")));
        }

        @Test
        void isAskedAsOftenAsRetriesAreAllowedAndOnce() throws IOException {
            try (var wire = new ServerTest.Wire(connection -> {
                connection.request();
                connection.say("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
            })) {
                rows(3);

                var call = call(settingsFor(wire), typed("run", "--max-retries", "2"));

                assertEquals(4, call.code());
                assertEquals(3, wire.requests.size());
                for (var request : wire.requests) assertTrue(request.startsWith("GET /v1/info "), request);
                assertTrue(call.err().contains("3 rows stay pending"), call.err());
            }
        }

        @Test
        void thatAsksToBeLeftAloneForAMomentIs() throws IOException {
            dify.server.stubFor(get(urlEqualTo("/v1/info")).inScenario("busy").whenScenarioStateIs("Started")
                    .willReturn(aResponse().withStatus(429).withHeader("Retry-After", "1")).willSetStateTo("back"));

            var call = run();

            assertEquals(0, call.code(), call.err());
            assertTrue(Pattern.compile("^waiting until \\d\\d:\\d\\d, as the server asks$", Pattern.MULTILINE)
                    .matcher(call.err()).find(), call.err());
        }

        @Test
        void thatAsksToBeLeftAloneForADayEndsTheCall() throws IOException {
            dify.info(aResponse().withStatus(503).withHeader("Retry-After", "86400"));
            var tomorrow = LocalDate.now().plusDays(1).toString();

            stopped(run(), "left alone until " + tomorrow);

            assertEquals(0, dify.runs());
        }

        @Test
        void thatIsAwayForAMomentIsAskedAgain() throws IOException {
            dify.server.stubFor(get(urlEqualTo("/v1/info")).inScenario("away").whenScenarioStateIs("Started")
                    .willReturn(aResponse().withStatus(503)).willSetStateTo("back"));

            assertEquals(0, run().code());
        }

        @Test
        void revokesTheKeyInTheMiddle() throws IOException {
            dify.row("4", dify.refused(401, "unauthorized", "Access token is invalid"));

            rows(20);
            var call = dify.run("-c", "1");

            assertEquals(4, call.code());
            assertTrue(call.sentence().contains("DIFY_API_KEY"), call.err());
            assertEquals("succeeded=3 pending=17", standing());
            assertEquals(4, dify.runs());
            assertFalse(Files.exists(file("results.jsonl.retry")));
        }

        @Test
        void thatRefusedIsAskedAgainByTheSameCommand() throws IOException {
            dify.rows(dify.refused(400, "invalid_param", "Workflow not published"));
            assertEquals(4, run().code());
            dify.rows(dify.ended("succeeded", ""));

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertEquals("succeeded=20", standing());
        }

        @Test
        void thatRefusesEveryStreamIsGivenBlockingRuns() throws IOException {
            dify.server.stubFor(post(urlPathEqualTo("/v1/workflows/run")).atPriority(1)
                    .withRequestBody(matchingJsonPath("$.response_mode", equalTo("streaming")))
                    .willReturn(dify.refused(400, "invalid_param", "Too many requests. Please try again later. The "
                            + "current maximum concurrent requests allowed for app is 1.")));

            rows(20);
            var call = dify.run("--mode", "streaming");

            assertEquals(0, call.code(), call.err());
            assertTrue(call.err().contains("the batch goes on in blocking mode"), call.err());
            assertTrue(dify.runs() < 20 + 10, () -> dify.runs() + " requests for 20 rows");
        }
    }

    // ── Settings ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheSettings {
        private final Dify dify = dify();

        private Object value(String option, Map<String, String> settings, String... more) {
            var line = commandLine(Env.of(settings));
            line.parseArgs(typed("run", more));
            return line.getSubcommands().get("run").getCommandSpec().findOption(option).getValue();
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                option,                variable,            default,                one,                    other
                --base-url,            DIFY_API_BASE_URL,   https://api.dify.ai/v1, http://a/v1,            http://b/v1
                --workflow-id,         DIFY_WORKFLOW_ID,    '',                     abc,                    def
                --max-retries,         MAX_RETRIES,         3,                      0,                      7
                --initial-retry-delay, INITIAL_RETRY_DELAY, PT1S,                   PT2S,                   PT1M30S
                --max-retry-delay,     MAX_RETRY_DELAY,     PT1M,                   PT5S,                   PT2M
                --timeout,             TIMEOUT,             PT5M,                   PT1M30S,                PT0.5S
                """)
        void theOptionWinsOverTheVariableAndThatOverTheDefault(String option, String variable, String standard,
                String one, String other) {
            String typed = plain(one), set = plain(other);

            assertEquals(standard, value(option, Map.of()).toString());
            assertEquals(standard, value(option, Map.of(variable, "")).toString(), "an empty variable is none");
            assertEquals(other, value(option, Map.of(variable, set)).toString());
            assertEquals(one, value(option, Map.of(variable, set), option, typed).toString());
        }

        /// As one types it.
        private static String plain(String value) {
            return value.startsWith("PT") ? Duration.parse(value).toMillis() + "ms" : value;
        }

        @ParameterizedTest
        @CsvSource({"http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1/", "' http://127.0.0.1:1/v1// '"})
        void aSlashAtTheEndOfTheAddressDoesNotMatter(String url) {
            assertEquals("http://127.0.0.1:1/v1", value("--base-url", Map.of("DIFY_API_BASE_URL", url)).toString());
        }

        @ParameterizedTest
        @CsvSource({"TIMEOUT, abc", "TIMEOUT, -1", "MAX_RETRY_DELAY, 1 day", "INITIAL_RETRY_DELAY, 1s2",
            "MAX_RETRIES, many", "MAX_RETRIES, 1.5", "DIFY_API_BASE_URL, dify", "DIFY_API_BASE_URL, ftp://dify/v1"})
        void aBadVariableIsNamedWithItsSource(String variable, String text) throws IOException {
            rows(1);

            var call = call(dify.settings(variable, text), typed("run"));
            assertEquals(2, call.code());
            assertTrue(call.sentence().startsWith("difyexec: " + variable + "=" + text + ": "), call.err());

            var inFile = call(withFile(Map.of("DIFY_API_KEY", KEY), "# mine\n" + variable + "=" + text), typed("run"));
            assertEquals(2, inFile.code());
            assertTrue(inFile.sentence().startsWith("difyexec: " + variable + " in " + file(".env") + ", line 2: "),
                    inFile.err());
            assertFalse(inFile.sentence().contains(text + ":"), inFile.err());
            assertEquals(0, dify.requests());
            assertEquals(Set.of("data.csv", ".env"), names());
        }

        /// The settings of an environment, and below it those of a `.env` file.
        private Env withFile(Map<String, String> settings, String content) throws IOException {
            Files.writeString(file(".env"), content);
            return Env.of(settings, folder);
        }

        /// `.env` files as people write them, with `@` for the key.
        enum Written {
            PLAIN("DIFY_API_KEY=@"),
            FOR_A_SHELL("export DIFY_API_KEY=@\nexport  TIMEOUT=\"5\""),
            WITH_A_BYTE_ORDER_MARK("\uFEFFDIFY_API_KEY=@\n"),
            IN_DOUBLE_QUOTES("DIFY_API_KEY=\"@\"  # \"mine\"\n"),
            IN_SINGLE_QUOTES("DIFY_API_KEY='@' # it's mine\n"),
            WITH_BLANKS("\n  DIFY_API_KEY  = \t @  \n\n"),
            ON_WINDOWS("# mine\r\nDIFY_API_KEY=@\r\nTIMEOUT=5\r\n"),
            WITH_COMMENTS("  # the key\n\t#DIFY_API_KEY=old\nDIFY_API_KEY=@ # of my app\nTIMEOUT= # 5\n"),
            TWICE("DIFY_API_KEY=app-of-yesterday\nDIFY_API_KEY=@\n"),
            IN_UTF_16("DIFY_API_KEY=@\r\n", StandardCharsets.UTF_16),
            WITH_AN_OLD_COMMENT("# Schl\u00fcssel\nDIFY_API_KEY=@\n", StandardCharsets.ISO_8859_1),
            AMONG_OTHERS("hello\nPEM=\"-----BEGIN\nMII=\n-----END\"\nJSON='{\"a\": 1}'\nDIFY_API_KEY=@\nTOKEN: @\n"),
            LIKE_YAML("\nDIFY_API_KEY: @\n", 2),
            WITHOUT_A_SIGN("TIMEOUT=5\nDIFY_API_KEY @\n", 2),
            FOR_POWERSHELL("$env:DIFY_API_KEY = \"@\"\n", 1),
            WITH_AN_OPEN_QUOTE("DIFY_API_KEY=\"@\nTIMEOUT=5\n", 1),
            WITH_AN_OPEN_SINGLE_QUOTE("DIFY_API_KEY='@\n", 1),
            THE_KEY_ALONE("# key:\n@\n", 2),
            IN_TYPOGRAPHIC_QUOTES("DIFY_API_KEY=\u201c@\u201d\n", 1),
            TWO_IN_A_LINE("DIFY_API_KEY=@ @\n", 1),
            WITH_A_NUL("DIFY_API_KEY=@\0\n", 1),
            WITHOUT_ITS_ENCODING("DIFY_API_KEY=@\u00e9\n", StandardCharsets.ISO_8859_1, 1),
            VERY_LONG("DIFY_API_KEY=@" + "@".repeat(30_000) + "\n", 1),
            THE_EXAMPLE("\nDIFY_API_KEY=" + Env.PLACEHOLDER + "\n", 2),
            EMPTY("DIFY_API_KEY=\n", 1);

            final byte[] bytes;
            final int badLine;

            Written(String text) {
                this(text, 0);
            }

            Written(String text, int badLine) {
                this(text, UTF_8, badLine);
            }

            Written(String text, Charset charset) {
                this(text, charset, 0);
            }

            Written(String text, Charset charset, int badLine) {
                this.bytes = text.replace("@", KEY).getBytes(charset);
                this.badLine = badLine;
            }
        }

        @ParameterizedTest
        @EnumSource
        void aFileAsPeopleWriteItWorksOrIsNamedByLineAndVariable(Written written) throws IOException {
            rows(1);
            Files.write(file(".env"), written.bytes);
            var env = Env.of(Map.of("DIFY_API_BASE_URL", dify.url()), folder);

            for (var call : List.of(call(env, typed("run")), call(env, "check", "-i", input()),
                    call(env, typed("run", "--timeout", "5", "--max-retries", "0", "--base-url", dify.url())))) {
                assertEquals(written.badLine == 0 ? 0 : 2, call.code(), call.err());
                if (written.badLine > 0) assertTrue(call.sentence().matches(".*DIFY_API_KEY\\b.*\\bline "
                        + written.badLine + "\\b.*"), call.err());
            }
            dify.server.verify(written.badLine == 0 ? 1 : 0, postRequestedFor(urlEqualTo("/v1/workflows/run"))
                    .withHeader("Authorization", equalTo("Bearer " + KEY)));
            for (var command : List.of("run --help", "--version", "run --demo -i IN -o DEMO", "check --demo -i IN",
                    "status -o DEMO", "status -o DEMO --json")) {
                var call = call(env, Stream.of(command.split(" ")).map(word -> word.equals("IN") ? input()
                        : word.equals("DEMO") ? file("demo.jsonl").toString() : word).toArray(String[]::new));
                assertEquals(0, call.code(), call.err());
            }
        }

        @Test
        void aBadFileDoesNotMatterToWhoeverHasItsSettings() throws IOException {
            rows(1);
            var env = withFile(dify.settings("TIMEOUT", "5"), "DIFY_API_KEY: " + KEY + "\nTIMEOUT " + KEY + "\n");

            assertEquals(0, call(env, typed("run")).code());
        }

        @Test
        void aLineThatCannotBeReadIsNamedWhenItsSettingIsWanted() throws IOException {
            rows(1);
            var env = withFile(dify.settings(), "TIMEOUT 5\nexport HTTPS_PROXY: x\n");

            var call = call(env, typed("run"));
            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("TIMEOUT in " + file(".env") + ", line 1: cannot be read"), call.err());
            assertEquals(0, call(env, typed("run", "--timeout", "5")).code());

            var proxied = call(env, typed("run", "--timeout", "5", "--base-url", "https://dify.test/v1"));
            assertEquals(2, proxied.code());
            assertTrue(proxied.sentence().contains("HTTPS_PROXY in " + file(".env") + ", line 2: cannot"),
                    proxied.err());
        }

        @ParameterizedTest
        @ValueSource(strings = {"TIMEOUT", "MAX_RETRIES", "INITIAL_RETRY_DELAY", "DIFY_API_BASE_URL", "DIFY_WORKFLOW_ID",
            "DIFY_CA_FILE"})
        void aKeyInTheWrongPlaceIsNotShown(String variable) throws IOException {
            rows(1);
            var settings = new HashMap<>(dify.settings());
            settings.remove(variable);

            var env = withFile(settings, "\n" + variable + "=" + KEY);
            var inFile = call(env, typed("run"));
            assertEquals(2, inFile.code(), inFile.err());
            assertTrue(inFile.sentence().contains(variable + " in " + file(".env") + ", line 2"), inFile.err());
            assertEquals(0, call(env, typed("run", "--demo")).code());
            assertEquals(0, call(env, "run", "--help").code());
            var inEnvironment = call(dify.settings(variable, KEY), typed("run"));
            assertEquals(2, inEnvironment.code());
            assertTrue(inEnvironment.sentence().contains(variable + "="), inEnvironment.err());
            var ofAnotherShape = call(dify.settings("DIFY_API_KEY", "0123456789abcdef", "TIMEOUT", "0123456789abcdef"),
                    typed("run"));
            assertTrue(ofAnotherShape.sentence().contains("TIMEOUT=***: "), ofAnotherShape.err());
            assertEquals(0, dify.requests());
        }

        @ParameterizedTest
        @ValueSource(strings = {"--timeout", "--max-retries", "--base-url", "--workflow-id", "--mode", "stray"})
        void aKeyOnTheCommandLineIsNotShown(String option) throws IOException {
            rows(1);

            assertEquals(2, call(dify.settings(), typed("run", option, KEY)).code());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                http://127.0.0.1:1/v1/workflows/run  | the API's own is http://127.0.0.1:1/v1
                http://127.0.0.1:1/v1/workflows/run/ | the API's own is http://127.0.0.1:1/v1
                https://dify.example/workflows/run   | the API's own is https://dify.example
                https://dify.example/v1/app-0123456789abcdefgh | an address with a key in it
                """)
        void anAddressThatCannotBeTheApisIsRefusedAtOnce(String address, String said) throws IOException {
            rows(1);

            for (var call : List.of(call(dify.settings("DIFY_API_BASE_URL", address), typed("run")),
                    call(dify.settings(), typed("run", "--base-url", address)))) {
                assertEquals(2, call.code());
                assertTrue(call.sentence().contains(said), call.err());
                assertFalse(call.err().contains("0123456789abcdefgh"), call.err());
            }
        }

        @Test
        void aGoodOptionMakesUpForABadVariable() throws IOException {
            rows(1);

            assertEquals(0, call(dify.settings("TIMEOUT", "abc"), typed("run", "--timeout", "5")).code());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                key,               said
                '',                DIFY_API_KEY is missing
                '  ',              DIFY_API_KEY is missing
                app-your-key-here, DIFY_API_KEY is missing
                'app-secret\nX',   DIFY_API_KEY contains a character
                app-secreté,       DIFY_API_KEY contains a character
                app-secret x,      DIFY_API_KEY contains a character
                """)
        void aKeyThatCannotBeOneIsNamedButNotShown(String key, String said) throws IOException {
            rows(1);

            var call = call(dify.settings("DIFY_API_KEY", key), typed("run"));

            assertEquals(2, call.code(), call.err());
            assertTrue(call.sentence().contains(said), call.err());
            assertFalse(call.err().contains("secret"), call.err());
            assertEquals(0, dify.requests());
            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        void blanksAroundTheKeyAreNotPartOfIt() throws IOException {
            rows(1);

            assertEquals(0, call(dify.settings("DIFY_API_KEY", " " + KEY + "\n"), typed("run")).code());

            dify.server.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/run")).withHeader("Authorization",
                    equalTo("Bearer " + KEY)));
        }

        @Test
        void aKeyThatWouldTravelUnprotectedIsWarnedOf() throws IOException {
            try (var proxy = new ServerTest.Wire(connection -> {
                while (connection.request()) connection.answer(connection.last.startsWith("GET ")
                        ? "{\"mode\":\"workflow\"}" : ServerTest.Events.blocking("{}"));
            })) {
                rows(1);
                var settings = dify.settings("DIFY_API_BASE_URL", "http://dify.test/v1", "HTTP_PROXY",
                        proxy.url().toString().replace("/v1", ""));

                var call = call(settings, typed("run"));

                assertEquals(0, call.code(), call.err());
                assertTrue(call.err().contains("Warning: http://dify.test/v1 is not https"), call.err());
                assertTrue(proxy.requests.getLast().startsWith("POST http://dify.test/v1/workflows/run "));
            }
        }

        @Test
        void loopbackNeedsNoWarningAndNoProxy() throws IOException {
            rows(1);

            var call = call(dify.settings("HTTP_PROXY", "http://127.0.0.1:1"), typed("run"));

            assertEquals(0, call.code(), call.err());
            assertFalse(call.err().contains("Warning"), call.err());
        }

        @Test
        void aProxyThatIsNoAddressIsNamedWithoutItsPassword() throws IOException {
            rows(1);

            var settings = dify.settings("DIFY_API_BASE_URL", "https://dify.test/v1", "HTTPS_PROXY", "me:hidden@ x");

            var call = call(settings, typed("run"));

            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("HTTPS_PROXY"), call.err());
            assertFalse(call.err().contains("hidden"), call.err());
        }

        @Test
        void anAuthorityFileThatIsNotThereIsNamed() throws IOException {
            rows(1);

            var call = call(dify.settings("DIFY_CA_FILE", file("ca.pem").toString()), typed("run"));

            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("DIFY_CA_FILE=" + file("ca.pem")), call.err());
        }
    }

    // ── Command lines ───────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheCommandLine {
        private final Dify dify = dify();

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                typed                                | said
                run -i IN -o OUT -c 0                | --concurrency 0: not a whole number from 1 on
                run -i IN -o OUT -c x                | -c
                run -i IN -o OUT -c 1.5              | -c
                run -i IN -o OUT -c                  | -c
                run -i IN -o OUT --max-failures 120% | --max-failures
                run -i IN -o OUT --max-failures 0    | --max-failures
                run -i IN -o OUT --max-tokens many   | --max-tokens
                run -i IN -o OUT --limit -1          | --limit -1: not a whole number from 1 on
                run -i IN -o OUT --limit 0           | --limit 0: not a whole number from 1 on
                run -i IN -o OUT --wait 1 -c 5       | --wait and -c 5
                run -i IN -o OUT --wait soon         | --wait
                run -i IN -o OUT --max-retries -1    | --max-retries -1
                run -i IN -o OUT --timeout -1        | --timeout
                run -i IN -o OUT --timeout 0         | --timeout 0
                run -i IN -o OUT --settle 0          | --settle 0
                run -i IN -o OUT --rate 10           | --rate
                run -i IN -o OUT --mode sideways     | --mode
                run -i IN -o OUT --retry-failed-runs | --retry-failed-runs
                run -i IN -o OUT --settle x          | --settle
                run -i IN -o OUT --demo=2.0          | --demo=2.0
                run -i IN -o OUT --base-url dify     | --base-url
                run -i IN -o OUT --api-key app-x     | --api-key
                run -i IN -o OUT --frobnicate        | --frobnicate
                run -i IN -o OUT stray               | stray
                run -i IN -o OUT --ids 99            | "99"
                run -i IN -o OUT --id-column nope    | "nope"
                run -o OUT                           | --input
                run -i IN                            | --output
                run                                  | --input
                retry -i IN                          | --output
                status                               | --output
                status -o OUT --frobnicate           | --frobnicate
                frobnicate                           | frobnicate
                --frobnicate                         | --frobnicate
                """)
        void whatCannotBeUsedIsSaidInOneSentence(String typed, String said) throws IOException {
            rows(2);
            var args = Stream.of(typed.split(" ")).map(word -> word.replace("IN", input())
                    .replace("OUT", output())).toArray(String[]::new);

            var call = call(dify.settings(), args);

            assertEquals(2, call.code(), call.err());
            assertEquals("", call.out());
            assertTrue(call.sentence().contains(said), call.err());
            assertTrue(call.err().lines().count() <= 2, call.err());
            assertEquals(0, dify.requests());
            var left = names();
            left.remove("results.jsonl.lock");
            assertEquals(Set.of("data.csv"), left);
        }

        @Test
        void withoutArgumentsItIsTheUsage() throws IOException {
            var call = call(Map.of());

            assertEquals(0, call.code());
            assertTrue(call.out().startsWith("Usage: difyexec "), call.out());
            for (var command : List.of("run", "retry", "status", "generate-completion"))
                assertTrue(call.out().contains("  " + command + " "), command);
            assertEquals("", call.err());
        }

        @ParameterizedTest
        @ValueSource(strings = {"-h", "--help", "run -h", "run --help", "retry --help", "status --help"})
        void helpIsAnAnswer(String typed) throws IOException {
            var call = call(Map.of("DIFY_API_KEY", KEY, "TIMEOUT", "abc"), typed.split(" "));

            assertEquals(0, call.code(), call.err());
            assertTrue(call.out().startsWith("Usage: difyexec"), call.out());
            assertEquals("", call.err());
        }

        @ParameterizedTest
        @ValueSource(strings = {"-V", "--version", "run --version", "status -V"})
        void theVersionIsOneLine(String typed) throws IOException {
            assertEquals("difyexec " + VERSION, call(Map.of(), typed.split(" ")).out().strip());
        }

        @Test
        void theCompletionIsAScript() throws IOException {
            var call = call(Map.of(), "generate-completion");

            assertEquals(0, call.code(), call.err());
            assertTrue(call.out().startsWith("#!/usr/bin/env bash"), call.out());
            assertTrue(call.out().contains("--max-failures"));
        }
    }

    // ── Input ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheInput {
        private final Dify dify = dify();

        private void refused(Call call, String... words) throws IOException {
            assertEquals(2, call.code(), call.err());
            for (var word : words) assertTrue(call.err().contains(word), () -> call.err() + " without " + word);
            assertFalse(call.err().contains("Exception"), call.err());
            assertEquals("", call.out());
            assertEquals(0, dify.requests());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                csv                              | line   | what
                ''                               | ''     | empty
                id,text                          | ''     | no rows
                id,text/1,a/1,b                  | line 3 | "1"
                id,text/1,a/ 1 ,b                | line 3 | line 2
                id,text/,a                       | line 2 | blank
                id,text/'  ',a                   | line 2 | blank
                id,text/1,a/2                    | line 3 | 1 cell
                id,text/1,a/2,b,c                | line 3 | 3 cells
                id,text,text/1,a,b               | line 1 | "text"
                id,,text/1,a,b                   | line 1 | column 2
                text,id/a,1                      | line 1 | --id-column
                id,text/1,a/2,"open/3,c          | line 3 | quote
                id,text/1,a//2,b                 | line 3 | blank
                """)
        void isRefusedWithItsLineBeforeAnythingIsSent(String csv, String line, String what) throws IOException {
            Files.writeString(file("data.csv"), csv.replace('/', '\n').replace("'", "") + (csv.isEmpty() ? "" : "\n"));

            refused(dify.run(), line, what);

            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        void hasAllItsProblemsListed() throws IOException {
            csv("id,text", "1,a", "1,b\n".repeat(30).strip());

            refused(dify.run(), "30 problems", "line 3:", "line 22:", "10 more");
        }

        @Test
        void thatIsNotInUtf8IsNamedWithItsLine() throws IOException {
            Files.write(file("data.csv"), "id,text\n1,a\n2,caf\u00e9\n".getBytes(StandardCharsets.ISO_8859_1));

            refused(dify.run(), "line 3", "UTF-8");

            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        void thatIsNotThereIsNamed() throws IOException {
            refused(dify.run(), "data.csv: no such file");

            assertEquals(Set.of(), names());
        }

        @Test
        void thatIsAFolderIsNamed() throws IOException {
            Files.createDirectory(file("data.csv"));

            refused(dify.run(), "data.csv: a folder");

            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        void andOutputAreTwoFiles() throws IOException {
            rows(1);
            var before = content("data.csv");

            var link = Files.createSymbolicLink(file("link"), file("data.csv"));
            var twin = Files.createLink(file("twin"), file("data.csv"));
            for (var output : List.of(input(), folder + "/./data.csv", link.toString(), twin.toString()))
                refused(call(dify.settings(), "run", "-i", input(), "-o", output), "both input and output");

            assertEquals(before, content("data.csv"));
            assertEquals(Set.of("data.csv", "link", "twin"), names());
        }

        @ParameterizedTest
        @ValueSource(strings = {".retry", ".retry.tmp", ".log", ".lock"})
        void isNotAnotherFileOfTheBatch(String suffix) throws IOException {
            Files.writeString(file("results.jsonl" + suffix), "id,text\n1,a\n");

            refused(call(dify.settings(), "run", "-i", output() + suffix, "-o", output()), "both input and output");

            assertEquals("id,text\n1,a\n", content("results.jsonl" + suffix));
        }

        @Test
        void outputInAFolderThatIsNotThereIsNamed() throws IOException {
            rows(1);

            refused(call(dify.settings(), "run", "-i", input(), "-o", file("no/results.jsonl").toString()),
                    "there is no folder " + file("no"));

            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        void outputThatIsAFolderIsNamed() throws IOException {
            rows(1);

            refused(call(dify.settings(), "run", "-i", input(), "-o", folder.toString()), "a folder");
        }

        @Test
        void problemsAreSaidByStatusToo() throws IOException {
            rows(1);
            dify.run();
            dify.server.resetRequests();
            csv("id,text", "1,a", "1,b");

            refused(call(Map.of(), "status", "-i", input(), "-o", output()), "line 3");
        }

        @ParameterizedTest
        @CsvSource({"UTF-8, ','", "UTF-8, ;", "UTF-16LE, '\t'", "UTF-16BE, ','"})
        void goesOutCellByCellAsItStands(String charset, String delimiter) throws IOException {
            var text = "id,zip,text\n1,007,\"a, \"\"b\"\"\r\nc; あ😀 \"\n2,, x ".replace(",", delimiter)
                    .replace("a" + delimiter, "a,");
            Files.write(file("data.csv"), ("\uFEFF" + text).getBytes(charset));

            assertEquals(0, dify.run().code());

            var users = "\"user\":\"${json-unit.any-string}\",\"response_mode\":\"blocking\"";
            for (var inputs : List.of("{\"id\":\"1\",\"zip\":\"007\",\"text\":\"a, \\\"b\\\"\\r\\nc; あ😀 \"}",
                    "{\"id\":\"2\",\"zip\":\"\",\"text\":\" x \"}"))
                dify.server.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/run"))
                        .withRequestBody(equalToJson("{\"inputs\":" + inputs + "," + users + "}")));
            assertEquals("a, \"b\"\r\nc; あ😀 ", result("1").path("inputs").path("text").asText());
        }

        @Test
        void mayHaveItsIdsInAnotherColumn() throws IOException {
            csv("text,key", "a,1", "b,2");

            assertEquals(0, dify.run("--id-column", "key").code());

            assertEquals(List.of("1", "2"), ids());
            assertEquals("{\"text\":\"a\",\"key\":\"1\"}", result("1").path("inputs").toString());
            assertEquals(0, call(Map.of(), "status", "-i", input(), "-o", output(),
                    "--id-column", "key").code());
        }
    }

    // ── The check ───────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheCheck {
        private final Dify dify = dify();

        TheCheck() {
            form(dify.answer(200, text("""
                    {'user_input_form': [
                        {'text-input': {'variable': 'text', 'label': 'Text', 'required': true, 'max_length': 5}},
                        {'select': {'variable': 'lang', 'label': 'Language', 'required': true,
                                    'options': ['en', 'ja']}},
                        {'number': {'variable': 'count', 'label': 'Count', 'required': false}}]}
                    """)));
        }

        private void form(ResponseDefinitionBuilder answer) {
            dify.server.stubFor(get(urlEqualTo("/v1/parameters")).willReturn(answer));
        }

        private Call check(String... more) throws IOException {
            return call(dify.settings(), Stream.concat(Stream.of("check", "-i", input()), Stream.of(more))
                    .toArray(String[]::new));
        }

        private void bad() throws IOException {
            csv("id,text,lang,count", "1,fine,en,1", "2,too long,ja,2", "3,fine,fr,many");
        }

        @Test
        void holdsEveryCellAgainstTheFormBeforeAnythingIsSent() throws IOException {
            bad();

            var call = dify.run();

            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("3 problems, nothing was sent"), call.err());
            for (var said : List.of("line 3, id 2, text = \"too long\": is 8 characters long, 5 are allowed",
                    "line 4, id 3, lang = \"fr\": allowed is one of \"en\", \"ja\"", "line 4, id 3, count = \"many\""))
                assertTrue(call.err().contains(said), call.err());
            assertEquals(0, dify.runs());
            assertEquals(List.of("data.csv", "results.jsonl.lock"), List.copyOf(names()));
        }

        @Test
        void isACommandToo() throws IOException {
            bad();

            var call = check();

            assertEquals(2, call.code());
            assertTrue(call.out().contains("line 3, id 2, text = \"too long\""), call.out());
            assertEquals("", call.err());
            assertEquals(Set.of("data.csv"), names());
            assertEquals(0, dify.runs());
        }

        @Test
        void isFineWithAFineFile() throws IOException {
            csv("id,text,Language,count", "1,fine,en,1");

            var call = check();

            assertEquals(0, call.code(), call.err());
            assertTrue(call.out().contains("Fine"), call.out());
        }

        @Test
        void listsAllProblemsAsJson() throws IOException {
            bad();

            var problems = tree(check("--json").out()).path("problems");

            assertEquals(List.of("2", "3", "3"), problems.findValuesAsText("id"));
            assertEquals(List.of("text", "lang", "count"), problems.findValuesAsText("column"));
        }

        @Test
        void namesEachOfTwelveFaults() throws IOException {
            form(dify.answer(200, text("""
                    {'user_input_form': [
                        {'text-input': {'variable': 'short', 'required': false, 'max_length': 3}},
                        {'number': {'variable': 'num', 'required': true}},
                        {'select': {'variable': 'pick', 'required': false, 'options': ['red', 'blue']}},
                        {'checkbox': {'variable': 'yes', 'required': false}},
                        {'json_object': {'variable': 'meta', 'required': false}},
                        {'file': {'variable': 'doc', 'required': false, 'allowed_file_types': ['document']}},
                        {'file-list': {'variable': 'docs', 'required': false, 'allowed_file_types': ['image'],
                                       'max_length': 2}}]}
                    """)));
            csv("id,short,num,pick,yes,meta,doc,docs",
                    "1,😀😀😀😀,1,,,,,", "2,,,,,,,", "3,,NaN,,,,,", "4,,\"1,000\",,,,,", "5,,1e5,,,,,", "6,,1,Rad,,,,",
                    "7,,1,,maybe,,,", "8,,1,,,[1],,", "9,,1,,,,@none.pdf,", "10,,1,,,,https://h/a.mp3,",
                    "11,,1,,,,,https://h/1.png;https://h/2.png;https://h/3.png", "12,,1,,,,,ftp://h/1.png");

            var call = check("--json");

            assertEquals(2, call.code());
            var problems = tree(call.out()).path("problems");
            assertEquals("""
                    2 1 short 😀😀😀😀: is 4 characters long, 3 are allowed
                    3 2 num : not empty: the workflow requires it
                    4 3 num NaN: a number like 12, -0.5 or 1234567.89
                    5 4 num 1,000: a number like 12, -0.5 or 1234567.89
                    6 5 num 1e5: a number like 12, -0.5 or 1234567.89
                    7 6 pick Rad: one of "red", "blue"; did you mean "red"?
                    8 7 yes maybe: true, false, yes, no, 1, 0, on or off
                    9 8 meta [1]: a JSON object like {"name": "value"}
                    10 9 doc @none.pdf: a file that exists; there is none at none.pdf
                    11 10 doc https://h/a.mp3: a file of the kind document, not audio (.mp3)
                    12 11 docs https://h/1.png;https://h/2.png;https://h/3.png: 3 files, 2 are allowed
                    13 12 docs ftp://h/1.png: an address (https://…) or @path
                    """, StreamSupport.stream(problems.spliterator(), false).map(problem -> Stream.of("line", "id",
                    "column", "value").map(name -> problem.path(name).asText()).collect(Collectors.joining(" ")) + ": "
                    + problem.path("allowed").asText().replace(folder + "/", "") + "\n").collect(Collectors.joining()));
            assertEquals(0, dify.server.findAll(postRequestedFor(urlPathMatching(".*"))).size());
        }

        @Test
        void showsTheRequestsWithoutTheKey() throws IOException {
            csv("id,text,lang,count", "1,fine,en,1", "2,fine,ja,");

            var call = check("--show", "1");

            assertTrue(call.out().contains(text("{'id':'1','text':'fine','lang':'en','count':1}")), call.out());
            assertFalse(call.out().contains("\"ja\""), call.out());
            assertTrue(call.out().contains("curl -X POST " + dify.url() + "/workflows/run "), call.out());
            assertEquals(0, dify.runs());
        }

        private LoggedRequest posted() {
            return dify.server.findAll(postRequestedFor(urlPathMatching("/v1/workflows/(.+/)?run"))).getFirst();
        }

        /// What a shell makes of the line that `check --show` prints: the words that `curl` gets.
        private List<String> curl(Call call) throws Exception {
            Assumptions.assumeTrue(Files.isExecutable(Path.of("/bin/sh")));
            var line = call.out().lines().filter(text -> text.startsWith("curl ")).findFirst().orElseThrow();
            var shell = new ProcessBuilder("/bin/sh", "-c", "curl() { printf '%s\\n' \"$@\"; }; " + line).start();
            return new String(shell.getInputStream().readAllBytes(), UTF_8).lines().toList();
        }

        @Test
        void showsWhatWouldActOnATerminalAsAnEscapeAndTheRequestStaysTheSame() throws Exception {
            form(dify.answer(200, text("""
                    {'user_input_form': [{'paragraph': {'variable': 'text', 'required': true}},
                                         {'json_object': {'variable': 'meta', 'required': false}}]}""")));
            csv("id,text,meta", "1,it's \u009b31m \u202e \u2028 \ue007f \udb40\udc41,\"{\r\n\"\"a\u007f\"\": 1}\"");

            var call = check("--show", "1");

            assertEquals(0, call.code(), call.err());
            assertTrue(call.out().contains("\\u009b31m \\u202e \\u2028 \ue007f \\udb40\\udc41"), call.out());
            assertEquals(List.of(), call.out().lines().flatMapToInt(String::codePoints).filter(c ->
                    Character.isISOControl(c) || Character.getType(c) == Character.FORMAT).boxed().toList());
            assertEquals(0, dify.run().code());
            assertEquals(tree(posted().getBodyAsString()).path("inputs"), tree(curl(call).getLast()).path("inputs"));
        }

        @Test
        void showsTheAddressThatARunGoesTo() throws Exception {
            csv("id,text,lang,count", "1,fine,en,1");
            var settings = new HashMap<>(dify.settings());
            settings.put("DIFY_WORKFLOW_ID", " v 1/2 ");
            dify.rows(dify.ended("succeeded", ""));

            var call = call(settings, "check", "-i", input(), "--show", "1");
            assertEquals(0, call(settings, typed("run")).code());

            assertEquals(dify.url().replace("/v1", posted().getUrl()), curl(call).get(2));
            assertTrue(curl(call).get(2).endsWith("/workflows/v%201%2F2/run"), curl(call)::toString);
        }

        @Test
        void showsTheDemosAddress() throws Exception {
            csv("id,text", "1,fine");

            var call = call(Map.of(), "check", "-i", input(), "--show", "1", "--demo");

            assertTrue(curl(call).get(2).matches("http://127\\.0\\.0\\.1:\\d+/v1/workflows/run"), call.out());
        }

        @Test
        void makesValuesOfTheTypesThatTheFormHas() throws IOException {
            csv("id,text,Language,count", "1,007,en,1.50", "2,,ja,");

            assertEquals(0, dify.run().code());

            sent("{'id':'1','text':'007','lang':'en','count':1.50}");
            sent("{'id':'2','text':'','lang':'ja'}");
            assertEquals(text("{'id':'1','text':'007','Language':'en','count':'1.50'}"), result("1").path("inputs") + "");
        }

        private void sent(String inputs) {
            dify.server.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/run")).withRequestBody(equalToJson(
                    text("{'inputs':" + inputs + ",'response_mode':'blocking','user':'${json-unit.any-string}'}"))));
        }

        @Test
        void mayBeLeftOut() throws IOException {
            bad();

            assertEquals(0, dify.run("--no-check").code());

            dify.server.verify(0, getRequestedFor(urlEqualTo("/v1/parameters")));
            assertEquals(3, dify.runs());
        }

        @ParameterizedTest
        @ValueSource(ints = {404, 502})
        void isWarnedOfWhenTheFormIsOutOfReach(int status) throws IOException {
            bad();
            form(aResponse().withStatus(status).withBody("<html>no</html>"));

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertTrue(call.err().contains("Warning: the workflow's form is out of reach"), call.err());
        }

        @Test
        void stopsWhereNothingIsPublished() throws IOException {
            rows(2);
            form(dify.refused(400, "app_unavailable", "App unavailable, please check your app configurations."));

            var call = dify.run();

            assertEquals(4, call.code());
            assertTrue(call.sentence().contains("publish"), call.err());
            assertEquals(0, dify.runs());
        }
    }

    // ── Files of a row ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class FilesOfARow {
        private final Dify dify = dify();

        FilesOfARow() throws IOException {
            dify.server.stubFor(get(urlEqualTo("/v1/parameters")).willReturn(dify.answer(200, text("""
                    {'user_input_form': [
                        {'file': {'variable': 'doc', 'required': false, 'allowed_file_types': ['document']}},
                        {'file-list': {'variable': 'docs', 'required': false, 'allowed_file_types': ['document'],
                                       'max_length': 3}}]}
                    """))));
            uploads(uploaded());
        }

        private void uploads(ResponseDefinitionBuilder... answers) {
            for (int i = 0; i < answers.length; i++) dify.server.stubFor(post(urlEqualTo("/v1/files/upload"))
                    .inScenario("uploads").whenScenarioStateIs(i == 0 ? "Started" : "upload " + i)
                    .willSetStateTo("upload " + Math.min(i + 1, answers.length - 1)).willReturn(answers[i]));
        }

        private ResponseDefinitionBuilder uploaded() {
            return dify.answer(201, text("{'id':'up-1','name':'a.txt','size':5}"));
        }

        private List<String> bodies(String path) {
            return dify.server.findAll(postRequestedFor(urlEqualTo(path))).stream()
                    .map(request -> request.getBodyAsString()).toList();
        }

        @Test
        void goUpOnceUnderTheUserOfTheRun() throws IOException {
            Files.writeString(file("a.txt"), "größe");
            csv("id,doc,docs", "1,@a.txt,@a.txt;https://h/b.pdf");

            assertEquals(0, dify.run().code());

            var upload = bodies("/v1/files/upload");
            assertEquals(1, upload.size());
            var run = tree(bodies("/v1/workflows/run").getFirst());
            assertTrue(upload.getFirst().contains("name=\"user\"\r\n\r\n" + run.path("user").asText() + "\r\n"),
                    upload::toString);
            assertTrue(upload.getFirst().contains("filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\ngröße\r\n"),
                    upload::toString);
            assertEquals(text("{'type':'document','transfer_method':'local_file','upload_file_id':'up-1'}"),
                    run.path("inputs").path("doc").toString());
            assertEquals(text("[{'type':'document','transfer_method':'local_file','upload_file_id':'up-1'},"
                    + "{'type':'document','transfer_method':'remote_url','url':'https://h/b.pdf'}]"),
                    run.path("inputs").path("docs").toString());
            assertEquals(List.of("up-1"), events("upload").stream().map(line -> line.path("upload").asText()).toList());
            assertEquals("@a.txt", result("1").path("inputs").path("doc").asText());
        }

        @Test
        void areTriedAgainBeforeTheRunIsStarted() throws IOException {
            Files.writeString(file("a.txt"), "x");
            csv("id,doc,docs", "1,@a.txt,");
            uploads(dify.answer(503, "busy").withHeader("Retry-After", "1"), aResponse().withFault(Fault.CONNECTION_RESET_BY_PEER), uploaded());

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertTrue(call.err().contains("as the server asks"), call.err());
            assertEquals(3, bodies("/v1/files/upload").size());
            assertEquals(1, dify.runs());
        }

        @Test
        void thatAreRefusedFailTheirRowWithoutARun() throws IOException {
            Files.writeString(file("a.txt"), "x");
            csv("id,doc,docs", "1,@a.txt,", "2,,");
            uploads(dify.refused(415, "unsupported_file_type", "File type not allowed."));

            var call = dify.run();

            assertEquals(3, call.code());
            assertTrue(call.err().contains("File type not allowed."), call.err());
            assertEquals("1\n", content("results.jsonl.retry"));
            assertEquals(1, dify.runs());
        }

        /// The CSV is in `batch`; above it lies what must not go out.
        private String[] outside(String command, String... more) throws IOException {
            Files.writeString(file("id_rsa.txt"), "secret");
            Files.createDirectories(file("batch"));
            Files.writeString(file("batch/data.csv"), "id,doc,docs\n1,@../id_rsa.txt,\n");
            return Stream.concat(Stream.of(command, "-i", file("batch/data.csv").toString()), Stream.of(more))
                    .toArray(String[]::new);
        }

        @Test
        void outsideOfTheCsvsFolderAreNeverUploaded() throws IOException {
            var checked = call(dify.settings(), outside("check"));
            var ran = call(dify.settings(), outside("run", "-o", output(), "--progress", "off"));

            assertEquals(List.of(2, 2), List.of(checked.code(), ran.code()));
            var problem = "line 2, id 1, doc = \"@../id_rsa.txt\": allowed is a file under the CSV's folder (or "
                    + "another, which --files DIR names); this is " + file("id_rsa.txt").toRealPath();
            assertTrue(checked.out().contains(problem), checked.out());
            assertTrue(ran.err().contains(problem), ran.err());
            assertEquals(List.of(), dify.server.findAll(postRequestedFor(urlPathMatching(".*"))));
        }

        @Test
        void areUploadedFromAFolderThatIsNamed() throws IOException {
            var call = call(dify.settings(), outside("run", "-o", output(), "--progress", "off", "--files",
                    folder.toString()));

            assertEquals(0, call.code(), call.err());
            assertTrue(bodies("/v1/files/upload").getFirst().contains("secret"));
        }

        @Test
        void areNotLookedForInAFolderThatIsNotThere() throws IOException {
            var call = call(dify.settings(), outside("check", "--files", file("none").toString()));

            assertEquals(2, call.code());
            assertEquals("difyexec: --files " + file("none") + ": no such folder", call.sentence());
            assertEquals(0, dify.requests());
        }

        /// While `a.txt` goes up, a link to what must not go out takes the place of `b.txt`.
        @Test
        void thatBecomeLinksAfterTheCheckFailTheirRowWithoutARun() throws IOException {
            outside("check");
            Files.writeString(file("batch/a.txt"), "a");
            var b = Files.writeString(file("batch/b.txt"), "b");
            Files.writeString(file("batch/data.csv"), "id,doc,docs\n1,@a.txt,@b.txt\n2,@b.txt,\n3,@a.txt,\n");
            var form = dify.server.getStubMappings().stream().map(stub -> stub.getResponse().getBody())
                    .filter(body -> body.contains("'doc'".replace('\'', '"'))).findFirst().orElseThrow();
            try (var wire = new ServerTest.Wire(connection -> {
                while (connection.request()) {
                    var what = connection.last.split(" ")[1];
                    if (what.equals("/v1/files/upload") && !Files.isSymbolicLink(b)) {
                        Files.delete(b);
                        Files.createSymbolicLink(b, Path.of("../id_rsa.txt"));
                    }
                    connection.answer(switch (what) {
                        case "/v1/info" -> text("{'name':'a','mode':'workflow'}");
                        case "/v1/parameters" -> form;
                        case "/v1/files/upload" -> text("{'id':'up'}");
                        default -> ServerTest.Events.blocking("{}");
                    });
                }
            })) {
                var call = call(settingsFor(wire), "run", "-i", file("batch/data.csv").toString(), "-o", output(), "-c",
                        "1", "--progress", "off");

                assertEquals(3, call.code(), call.err());
                assertEquals(List.of("3"), ids());
                assertEquals("1\n2\n", content("results.jsonl.retry"));
                assertEquals(1, wire.requests.stream().filter(sent -> sent.contains(" /v1/workflows/run ")).count());
                assertFalse(wire.requests.toString().contains("secret"));
                assertTrue(call.err().contains("b.txt: a link has taken its place"), call.err());
                assertTrue(call.err().contains("doc: allowed is a file under the CSV's folder"), call.err());
            }
        }

        /// A run whose output `doc` is a file behind a signed link.
        private void givesAFile(String extension) {
            givesAFile(extension, 4);
        }

        private void givesAFile(String extension, int size) {
            dify.rows(dify.answer(200, text("""
                    {'workflow_run_id':'r','task_id':'t','data':{'id':'r','workflow_id':'w','status':'succeeded',
                     'outputs':{'n':1,'made':[{'dify_model_identity':'__dify__file__','extension':'%s','size':%d,
                     'url':'%s/f?sign=x'}]},'error':null,'elapsed_time':1,'total_tokens':1,'total_steps':1}}""",
                    extension, size, dify.url())));
            fileIs(aResponse().withBody("made"));
        }

        /// What the link answers, one after the other; the last one stays.
        private void fileIs(ResponseDefinitionBuilder... answers) {
            var scenario = "file " + UUID.randomUUID();
            for (int i = 0; i < answers.length; i++) {
                var stub = get(urlEqualTo("/v1/f?sign=x")).inScenario(scenario)
                        .whenScenarioStateIs(i == 0 ? "Started" : "answer " + i);
                if (i < answers.length - 1) stub.willSetStateTo("answer " + (i + 1));
                dify.server.stubFor(stub.willReturn(answers[i]));
            }
        }

        private Call save(String... more) throws IOException {
            return dify.run(Stream.concat(Stream.of("--save-files", file("out").toString()), Stream.of(more))
                    .toArray(String[]::new));
        }

        private List<String> files(String id) throws IOException {
            return StreamSupport.stream(result(id).path("files").spliterator(), false)
                    .map(path -> file("out").relativize(Path.of(path.asText())).toString()).toList();
        }

        /// All that lies in the folder, drafts too, with what is in it.
        private String saved() throws IOException {
            try (var all = Files.list(file("out"))) {
                var text = new TreeMap<String, String>();
                for (var each : all.toList()) text.put(each.getFileName().toString(), Files.readString(each));
                return text.toString();
            }
        }

        @Test
        void madeByTheWorkflowAreFetchedBeforeTheRowIsDone() throws IOException {
            csv("id,doc,docs", "../1,,");
            givesAFile(".txt");

            var call = dify.run("--save-files", file("out").toString());

            assertEquals(0, call.code(), call.err());
            var saved = file("out").resolve(Sender.fileName("../1", "made", 1, ".txt"));
            assertEquals("made", Files.readString(saved));
            assertEquals(List.of(saved.toString()), StreamSupport.stream(result("../1").path("files").spliterator(), false)
                    .map(JsonNode::asText).toList());
            assertEquals(0, dify.server.findAll(getRequestedFor(urlEqualTo("/v1/f?sign=x")).withHeader("Authorization",
                    matching(".*"))).size(), "the link is signed: the key is not for it");
        }

        @Test
        void madeByTheWorkflowAreWarnedOfOnceWhenNobodyFetchesThem() throws IOException {
            csv("id,doc,docs", "1,,", "2,,");
            givesAFile(".txt");

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertEquals(2, call.err().split("--save-files DIR", -1).length, call.err());
            assertTrue(result("1").path("files").isMissingNode());
        }

        @ParameterizedTest
        @ValueSource(strings = {"null", "\"\"", "\" \"", "\"ht tp://x\"", "\"file:///etc/hostname\""})
        void withoutAnAddressAreMissingNotFetchedFromTheApi(String link) throws IOException {
            csv("id,doc,docs", "1,,");
            dify.rows(dify.answer(200, text("""
                    {'workflow_run_id':'r','task_id':'t','data':{'id':'r','workflow_id':'w','status':'succeeded',
                     'outputs':{'made':{'dify_model_identity':'__dify__file__','extension':'.txt','url':%s}},
                     'error':null,'elapsed_time':1,'total_tokens':1,'total_steps':1}}""", link)));
            dify.server.stubFor(get(urlPathMatching("/v1/?")).willReturn(aResponse().withBody("welcome")));

            var call = save();

            assertEquals(3, call.code(), call.err());
            assertEquals("{}", saved());
            assertEquals("no address in the output", events("missing").getFirst().path("why").asText());
        }

        @Test
        void thatCannotBeFetchedCostTheRowNothing() throws IOException {
            csv("id,doc,docs", "1,,");
            givesAFile(".txt");
            dify.server.stubFor(get(urlEqualTo("/v1/f?sign=x")).willReturn(aResponse().withStatus(403)));

            var call = save();

            assertEquals(3, call.code(), call.err());
            assertEquals(List.of("1"), ids());
            assertEquals("", content("results.jsonl.retry"));
            assertEquals("{}", saved());
            assertTrue(call.err().contains("Row 1: a file of its outputs could not be fetched (HTTP 403);"),
                    call.err());
            assertTrue(call.err().contains("  1 file of 1 row could not be fetched (1): see 'missing'"), call.err());
            var missing = events("missing").getFirst();
            assertEquals("1 1-made-1.txt HTTP 403", Stream.of("id", "file", "why")
                    .map(field -> missing.path(field).asText()).collect(Collectors.joining(" ")));
        }

        @Test
        void thatCouldNotBeFetchedAreToldByTheStatusUntilTheRowHasThem() throws IOException {
            csv("id,doc,docs", "1,,");
            givesAFile(".txt");
            fileIs(aResponse().withStatus(403), aResponse().withBody("made"));
            save();

            var words = call(Map.of(), "status", "-o", output());
            var json = call(Map.of(), "status", "--json", "-o", output());
            dify.command("retry", "1", "--force", "--save-files", file("out").toString());
            var later = call(Map.of(), "status", "--json", "-o", output());

            assertEquals(List.of(3, 3, 0), List.of(words.code(), json.code(), later.code()));
            assertTrue(words.out().contains("Note: 1 file of 1 row could not be fetched (1)"), words.out());
            assertEquals(text("{'count':1,'rows':1,'ids':['1']}"), tree(json.out()).path("missing_files").toString());
            assertEquals(text("{'count':0,'rows':0,'ids':[]}"), tree(later.out()).path("missing_files").toString());
            assertEquals(List.of("1-made-1.txt"), files("1"));
        }

        @Test
        void areWholeOrTriedAgain() throws IOException {
            csv("id,doc,docs", "1,,");
            givesAFile(".txt");
            fileIs(aResponse().withBody("mad"), aResponse().withStatus(503), aResponse().withBody("made more"),
                    aResponse().withFault(Fault.MALFORMED_RESPONSE_CHUNK), aResponse().withBody("made"));

            var call = save();

            assertEquals(0, call.code(), call.err());
            assertEquals("{1-made-1.txt=made}", saved());
            assertEquals(5, dify.server.findAll(getRequestedFor(urlEqualTo("/v1/f?sign=x"))).size());
            assertEquals(1, dify.runs());
        }

        @Test
        void areWholeByTheLengthOfTheAnswerWhereDifyKnowsNoOther() throws IOException {
            csv("id,doc,docs", "1,,");
            givesAFile(".txt", -1);
            fileIs(aResponse().withBody("made").withHeader("Content-Length", "5"), aResponse().withBody("made"));

            var call = save();

            assertEquals(0, call.code(), call.err());
            assertEquals("{1-made-1.txt=made}", saved());
            assertEquals(2, dify.server.findAll(getRequestedFor(urlEqualTo("/v1/f?sign=x"))).size());
        }

        @Test
        void areNeverWrittenOverAnother() throws IOException {
            csv("id,doc,docs", "1,,");
            givesAFile(".txt");
            Files.createDirectories(file("out"));
            Files.writeString(file("out/1-made-1.txt"), "mine");

            var first = save();
            assertEquals(0, first.code(), first.err());
            assertEquals(List.of("1-made-1~2.txt"), files("1"));
            var again = dify.command("retry", "1", "--force", "--save-files", file("out").toString());

            assertEquals(0, again.code(), again.err());
            assertEquals(List.of("1-made-1~2.txt"), files("1"), "the same bytes are kept as one file");
            assertEquals("{1-made-1.txt=mine, 1-made-1~2.txt=made}", saved());
        }
    }

    // ── Earlier files ───────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class EarlierFiles {
        private final Dify dify = dify();

        /// As the original Python tool leaves them.
        private void original() throws IOException {
            rows(5);
            Files.writeString(file("results.jsonl"), "\uFEFF" + text("""
                    {'id': '1', 'status': 'success', 'inputs': {'id': '1'}, 'outputs': {'outputs': {'answer': 'a'}}}
                    {'id': '2', 'status': 'success', 'inputs': {'id': '2'}, 'outputs': {'answer': 'old'}}
                    {'id': '2', 'status': 'success', 'inputs': {'id': '2'}, 'outputs': {'answer': 'new'}}
                    """));
            Files.writeString(file("results.jsonl.retry"), "\uFEFF5\n3\n5\n\n3\r\n");
        }

        @Test
        void ofTheOriginalToolAreContinued() throws IOException {
            original();
            var before = content("results.jsonl");

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertEquals(List.of("3", "4", "5"), attempts(1));
            assertTrue(content("results.jsonl").startsWith(before), "what was there stays as it was");
            assertFalse(call.err().contains("could not be read"), call.err());
            assertEquals("succeeded=5", standing());
        }

        @Test
        void ofTheOriginalToolHaveTheirListRetriedOnceEach() throws IOException {
            original();

            var call = dify.command("retry");

            assertEquals(0, call.code(), call.err());
            assertEquals(List.of("3", "5"), attempts(1));
            assertEquals("succeeded=4 pending=1", standing());
        }

        @Test
        void ofTheOriginalToolHaveAStatus() throws IOException {
            original();

            assertEquals("succeeded=2 failed=2 pending=1", standing());
        }

        @Test
        void tornByACrashAreMendedAndTheRowRunsAgain() throws IOException {
            rows(3);
            dify.run();
            var whole = content("results.jsonl");
            var cut = whole.substring(0, whole.length() - 20);
            Files.writeString(file("results.jsonl"), cut);
            var log = content("results.jsonl.log");
            Files.writeString(file("results.jsonl.log"), log.substring(0, log.stripTrailing().lastIndexOf('\n') + 9));

            var call = dify.run("--settle", "50ms");

            assertEquals(0, call.code(), call.err());
            assertEquals("succeeded=3", standing());
            assertEquals(List.of("1", "2", "3"), ids());
            assertEquals(Set.of("results.jsonl", "results.jsonl.log"), events("torn").stream()
                    .map(line -> line.path("file").asText()).collect(Collectors.toSet()));
            assertEquals(4, dify.runs());
        }

        @Test
        void whoseResultsAreGoneAreNotPaidForTwice() throws IOException {
            rows(3);
            dify.run();
            Files.delete(file("results.jsonl"));
            for (var id : List.of("1", "2", "3")) dify.recorded(id, "succeeded");

            var refused = dify.run();
            assertEquals(2, refused.code());
            assertTrue(refused.sentence().contains("3 results that the log knows of are gone"), refused.err());
            assertTrue(refused.sentence().contains("--rebuild"), refused.err());
            assertEquals(3, dify.runs());

            var rebuilt = dify.run("--rebuild");
            assertEquals(0, rebuilt.code(), rebuilt.err());
            assertEquals(List.of("1", "2", "3"), ids());
            assertEquals("run-2", result("2").path("workflow_run_id").asText());
            assertEquals("2", result("2").path("outputs").path("row_id").asText());
            assertEquals(3, dify.runs());
            assertEquals(2.5, events("end").getLast().path("seconds").asDouble(), "nobody saw its end: Dify's own time");
        }

        @Test
        void ofAnotherServerAreLeftAlone() throws IOException {
            rows(2);
            dify.run("--limit", "1");
            var other = dify();

            var call = other.run();

            assertEquals(2, call.code());
            for (var url : List.of(dify.url(), other.url())) assertTrue(call.sentence().contains(url), call.err());
            assertEquals(0, other.runs());
            assertEquals("succeeded=1 pending=1", standing());
        }

        @Test
        void ofANewerFormatAreLeftAlone() throws IOException {
            rows(1);
            Files.writeString(file("results.jsonl.log"),
                    "{\"event\":\"session\",\"t\":\"2030-01-01T00:00:00Z\",\"format\":2,\"tool\":\"difyexec 9\"}\n");

            var call = dify.run();

            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("difyexec 9"), call.err());
            assertEquals(0, dify.requests());
        }

        @Test
        void areMovedAsideForAFreshStart() throws IOException {
            rows(2);
            dify.row("2", dify.ended("failed", "no"));
            dify.run();
            var before = content("results.jsonl");

            var call = dify.run("--fresh");

            assertEquals(3, call.code());
            assertEquals(4, dify.runs());
            assertEquals(List.of("1"), ids());
            var aside = names().stream().filter(name -> name.matches("results.*\\.\\d{8}T[0-9.]+Z")).toList();
            assertEquals(List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry"),
                    aside.stream().map(name -> name.replaceFirst("\\.\\d+T.*", "")).toList());
            assertEquals(before, content(aside.getFirst()));
            assertTrue(call.err().contains("Moved "), call.err());
        }

        @Test
        void stayWhereTheyAreWhenAFreshStartIsRefused() throws IOException {
            rows(1);
            dify.run();
            var before = names();

            assertEquals(2, dify.run("--fresh", "-c", "0").code());
            assertEquals(2, call(dify.settings("DIFY_API_KEY", ""), typed("run", "--fresh")).code());

            assertEquals(before, names());
        }

        @Test
        void tellOfRowsThatChangedSince() throws IOException {
            rows(3);
            dify.run();
            csv("id,text", "1,text 1", "2,changed", "3,text 3", "4,new");

            var told = dify.run();
            assertEquals(0, told.code());
            assertEquals(4, dify.runs());
            assertTrue(told.err().contains("1 row with a success changed in the CSV since (first: 2)"), told.err());
            assertTrue(told.err().contains("--rerun-changed"), told.err());

            var again = dify.run("--rerun-changed");
            assertEquals(0, again.code());
            assertEquals(5, dify.runs());
            assertEquals("changed", result("2").path("inputs").path("text").asText());
            assertFalse(dify.run().err().contains("changed"));
        }
    }

    // ── Files of others ─────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class FilesOfOthers {
        private static final String SECRET = "app-of-somebody-else";

        private final Dify dify = dify();

        /// Every call that writes is refused for this file, and nothing is any different after it.
        private void refused(String name, String... said) throws IOException {
            var before = contents();
            for (var words : List.of("run", "retry", "retry 1 --force", "run --fresh", "run --rebuild", "run --no-bom")) {
                var typed = words.split(" ");
                var call = dify.command(typed[0], Arrays.copyOfRange(typed, 1, typed.length));

                assertEquals(2, call.code(), call.err());
                assertTrue(call.sentence().startsWith("difyexec: " + file(name) + ": "), call.err());
                for (var word : said) assertTrue(call.sentence().contains(word), call.err());
                assertFalse(call.err().contains(SECRET), call.err());
                assertEquals(before, contents());
            }
        }

        private Map<String, String> contents() throws IOException {
            var contents = new TreeMap<String, String>();
            for (var name : names()) contents.put(name, Files.isRegularFile(file(name))
                    ? Files.readString(file(name), StandardCharsets.ISO_8859_1) : "no file");
            return contents;
        }

        @ParameterizedTest
        @ValueSource(strings = {"keep me", "id,text\n1,a\n2,b", "{\"a\":1}\n{\"a\":2}\n{\"a\":", "{\"id\":\"1\"}",
                "{\n  \"id\": \"1\",\n  \"status\": \"success\"\n}\n", "{\"id\":\"1\",\"name\":\"Bo",
                "DIFY_API_KEY=" + SECRET + "\n", "\u0000\u0001\u0002\u007fELF", "\u00ff\u00fek\u0000e\u0000"})
        void areLeftAsTheyAre(String text) throws IOException {
            rows(2);

            for (var name : List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry",
                    "results.jsonl.retry.tmp")) {
                Files.writeString(file(name), text, StandardCharsets.ISO_8859_1);
                refused(name);
                Files.delete(file(name));
            }

            assertEquals(0, dify.requests());
        }

        @ParameterizedTest
        @ValueSource(strings = {"results.jsonl", "results.jsonl.log", "results.jsonl.retry", "results.jsonl.retry.tmp"})
        void areLeftAsTheyAreBesideABatch(String name) throws IOException {
            rows(2);
            dify.row("2", dify.ended("failed", "no"));
            dify.run();
            int before = dify.requests();
            Files.writeString(file(name), "keep me");

            refused(name);

            assertEquals(before, dify.requests());
        }

        @Test
        void andOnesIdsWithoutABatchDoNotMix() throws IOException {
            rows(2);
            Files.writeString(file("results.jsonl.retry"), "1\nkeep me\n");

            refused("results.jsonl.retry", "move it away, or name another file for the results");
        }

        @Test
        void areNotInALockThatHasText() throws IOException {
            rows(1);
            Files.writeString(file("results.jsonl.lock"), "keep me");

            assertEquals(0, dify.run().code());

            assertEquals("keep me", content("results.jsonl.lock"));
        }

        /// An id may have left the CSV, and a crash may have left a list half made.
        @Test
        void areNotTheListsOfABatchItself() throws IOException {
            rows(3);
            for (var id : List.of("2", "3")) dify.row(id, dify.ended("failed", "no"));
            dify.run();
            Files.writeString(file("results.jsonl.retry.tmp"), "2\n3");
            csv("id,text", "1,text 1", "4,text 4");

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertEquals(Set.of("data.csv", "results.jsonl", "results.jsonl.lock", "results.jsonl.log"), names());
        }

        @Test
        void areNotTheFirstLineThatACrashTore() throws IOException {
            rows(2);
            Files.writeString(file("results.jsonl"), "\uFEFF{\"id\":\"1\",\"status\":\"succ");
            Files.writeString(file("results.jsonl.log"), "{\"event\":\"session\",\"t\":\"20");

            var call = dify.run();

            assertEquals(0, call.code(), call.err());
            assertEquals(List.of("1", "2"), ids());
            assertEquals(2, events("torn").size());
            assertEquals("succeeded=2", standing());
            assertEquals(0, dify.run().code()); // the log begins with 'torn'
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "\uFEFF"})
        void areNotEmpty(String text) throws IOException {
            rows(2);
            for (var name : List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry",
                    "results.jsonl.retry.tmp")) Files.writeString(file(name), text);

            assertEquals(0, dify.run().code());

            assertEquals(List.of("1", "2"), ids());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", ".log", ".retry", ".retry.tmp", ".lock"})
        void areNoFoldersPipesOrLinksToNothing(String suffix) throws Exception {
            rows(1);
            var name = "results.jsonl" + suffix;

            Files.createDirectory(file(name));
            refused(name, "a folder, not a file");
            Files.delete(file(name));
            Files.createSymbolicLink(file(name), file("none"));
            refused(name, "a link to nothing, not a file");
            Files.delete(file(name));
            Assumptions.assumeTrue(new ProcessBuilder("mkfifo", file(name).toString()).start().waitFor() == 0);
            refused(name, "a device or a pipe, not a file");

            assertEquals(0, dify.requests());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                output,      said
                -,           '-: standard output, not a file; name another for the results'
                /dev/null,   '/dev/null: a device or a pipe, not a file; name another for the results'
                /proc/stat,  '/proc/stat: a device or a pipe, not a file; name another for the results'
                """)
        void areNoDevices(String output, String said) throws IOException {
            Assumptions.assumeTrue(output.equals("-") || Files.exists(Path.of(output)));
            rows(1);

            for (var command : List.of("run", "retry")) {
                var call = call(dify.settings(), command, "-i", input(), "-o", output);

                assertEquals(2, call.code(), call.err());
                assertEquals("difyexec: " + said, call.sentence());
            }
            assertEquals(0, dify.requests());
            assertEquals(Set.of("data.csv"), names());
            assertFalse(Files.exists(Path.of("-")));
        }
    }

    // ── Selections and limits ───────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheSelection {
        private final Dify dify = dify();

        @Test
        void mayBeTheFirstPendingRows() throws IOException {
            rows(5);

            assertEquals(0, dify.run("--limit", "2").code());
            assertEquals(List.of("1", "2"), ids());
            assertEquals(0, dify.run("--limit", "2").code());

            assertEquals(List.of("1", "2", "3", "4"), ids());
            assertEquals("succeeded=4 pending=1", standing());
        }

        @Test
        void mayBeAFewIds() throws IOException {
            rows(5);

            assertEquals(0, dify.run("--ids", "4,2").code());

            assertEquals(List.of("2", "4"), ids());
        }

        @Test
        void namesAnIdThatIsNotThere() throws IOException {
            rows(2);

            var call = dify.run("--ids", "2,nope");

            assertEquals(2, call.code());
            assertTrue(call.sentence().contains("\"nope\""), call.err());
            assertEquals(0, dify.requests());
        }

        @Test
        void endsWithTheFailuresThatAreAllowed() throws IOException {
            rows(20);
            dify.rows(dify.ended("failed", "no"));

            var call = dify.run("--max-failures", "3", "-c", "1");

            assertEquals(4, call.code());
            assertTrue(call.sentence().contains("--max-failures"), call.err());
            assertEquals("failed=3 pending=17", standing());
            assertEquals("1\n2\n3\n", content("results.jsonl.retry"));
        }

        @Test
        void endsWithTheTokensThatAreAllowed() throws IOException {
            rows(20);

            var call = dify.run("--max-tokens", "25", "-c", "1");

            assertEquals(4, call.code());
            assertTrue(call.sentence().contains("--max-tokens"), call.err());
            assertEquals("succeeded=3 pending=17", standing());
        }

        @Test
        void runsNoMoreAtATimeThanAllowed() throws IOException {
            var running = new AtomicInteger();
            var most = new AtomicInteger();
            var three = new CyclicBarrier(3);
            try (var wire = new ServerTest.Wire(connection -> {
                while (connection.request()) {
                    if (connection.last.startsWith("GET ")) {
                        connection.answer("{\"mode\":\"workflow\"}");
                        continue;
                    }
                    most.accumulateAndGet(running.incrementAndGet(), Math::max);
                    meet(three);
                    running.decrementAndGet();
                    connection.answer(ServerTest.Events.blocking("{}"));
                }
            })) {
                rows(30);

                assertEquals(0, call(settingsFor(wire),
                        typed("run", "-c", "3")).code());

                assertEquals(3, most.get());
                assertTrue(wire.connections.get() <= 3 + 2, () -> wire.connections + " connections");
            }
        }

        private static void meet(CyclicBarrier others) {
            try {
                others.await(30, TimeUnit.SECONDS);
            } catch (InterruptedException | BrokenBarrierException | TimeoutException problem) {
                throw new IllegalStateException(problem);
            }
        }

        @Test
        void waitsBetweenRowsWhenToldTo() throws IOException {
            rows(4);
            var begun = System.nanoTime();

            assertEquals(0, dify.run("--wait", "60ms").code());

            assertTrue(System.nanoTime() - begun >= 180_000_000L);
            var times = dify.server.getAllServeEvents().stream().filter(CommandTest::isRun)
                    .map(event -> event.getRequest().getLoggedDate().toInstant()).sorted().toList();
            for (int i = 1; i < 4; i++)
                assertTrue(Duration.between(times.get(i - 1), times.get(i)).toMillis() >= 55, times::toString);
        }
    }

    @Nested
    class TwoAtOnce {
        @Test
        void theSecondRefusesAndTheFirstGoesOn() throws Exception {
            var begun = new CountDownLatch(1);
            var goOn = new CountDownLatch(1);
            try (var wire = new ServerTest.Wire(connection -> {
                while (connection.request()) {
                    if (!connection.last.startsWith("GET ")) {
                        begun.countDown();
                        await(goOn);
                    }
                    connection.answer(connection.last.startsWith("GET ") ? "{\"mode\":\"workflow\"}"
                            : ServerTest.Events.blocking("{}"));
                }
            }); var threads = Executors.newVirtualThreadPerTaskExecutor()) {
                rows(2);
                var settings = settingsFor(wire);
                var first = threads.submit(() -> call(settings, typed("run")));
                begun.await();

                for (var command : List.of(typed("run"), typed("retry"), typed("run", "--fresh"))) {
                    var second = call(settings, command);
                    assertEquals(2, second.code(), second.err());
                    assertTrue(second.sentence().contains("another difyexec"), second.err());
                }
                assertEquals("pending=2", standing(), "status may look on");
                goOn.countDown();

                assertEquals(0, first.get().code());
                assertEquals(List.of("1", "2"), ids());
                assertEquals(2, wire.requests.stream().filter(request -> request.startsWith("POST ")).count());
            }
        }
    }

    private static void await(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException _) {
            Thread.currentThread().interrupt();
        }
    }

    // ── A process of its own ────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AProcess {
        private final List<Process> children = new ArrayList<>();

        @AfterEach
        void end() {
            children.forEach(Process::destroyForcibly);
        }

        private Process start(Map<String, String> settings, List<String> jvm, String... args) throws IOException {
            var words = new ArrayList<>(List.of(ProcessHandle.current().info().command().orElseThrow(),
                    "--enable-native-access=ALL-UNNAMED", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"));
            words.addAll(jvm);
            words.addAll(List.of("-cp", System.getProperty("java.class.path"), "difyexec.DifyExec"));
            words.addAll(List.of(args));
            var builder = new ProcessBuilder(words).directory(folder.toFile());
            builder.environment().keySet().removeIf(name ->
                    name.matches("(?i)DIFY.*|.*_PROXY|MAX_RETR.*|INITIAL_RETR.*|TIMEOUT|LC_.*|JAVA.*|JDK_.*"));
            builder.environment().putAll(settings);
            var child = builder.redirectOutput(file("child.out").toFile()).redirectError(file("child.err").toFile())
                    .start();
            children.add(child);
            return child;
        }

        private Call ended(Process child) throws Exception {
            assertTrue(child.waitFor(60, TimeUnit.SECONDS), "the process does not end");
            var call = new Call(child.exitValue(), content("child.out"), content("child.err"));
            keyIsNowhere(call);
            return call;
        }

        private static void signal(String name, Process child) throws Exception {
            assertEquals(0, new ProcessBuilder("kill", "-" + name, "" + child.pid()).start().waitFor());
        }

        /// Answers the first rows, holds the others until `goOn`, and says when all that may run are there.
        private final class Holding implements AutoCloseable {
            final CountDownLatch goOn = new CountDownLatch(1), held;
            final Map<String, CountDownLatch> stops = new ConcurrentHashMap<>();
            final Set<String> stopped = ConcurrentHashMap.newKeySet();
            private final boolean tells;
            final AtomicInteger posts = new AtomicInteger();
            final ServerTest.Wire wire;

            Holding(String mode, int answered, int held) throws IOException {
                this(mode, answered, held, true);
            }

            /// @param tells whether a stream tells the end of a run that was asked to stop
            Holding(String mode, int answered, int held, boolean tells) throws IOException {
                this.tells = tells;
                this.held = new CountDownLatch(held);
                wire = new ServerTest.Wire(connection -> {
                    while (connection.request()) serve(connection, mode, answered);
                });
            }

            private void serve(ServerTest.Wire.Connection connection, String mode, int answered) throws IOException {
                var request = connection.last;
                if (request.startsWith("GET /v1/info ") || request.startsWith("GET /v1/parameters "))
                    connection.answer("{\"mode\":\"workflow\",\"user_input_form\":[]}");
                else if (request.contains("/workflows/logs")) logs(connection);
                else if (request.startsWith("GET ")) detail(connection);
                else if (request.contains("/stop ")) {
                    var task = request.replaceAll("(?s).*/tasks/(\\S*)/stop.*", "$1");
                    stopped.add(task);
                    stop(task).countDown();
                    connection.answer("{\"result\":\"success\"}");
                } else row(connection, mode, rowOf(request), answered);
            }

            private static String rowOf(String request) {
                return request.replaceAll("(?s).*\"id\":\"(\\d+)\".*", "$1");
            }

            private void row(ServerTest.Wire.Connection connection, String mode, String id, int answered)
                    throws IOException {
                posts.incrementAndGet();
                boolean hold = goOn.getCount() > 0 && Integer.parseInt(id) > answered;
                if (mode.equals("blocking")) {
                    if (hold) held.countDown();
                    if (hold) connection.hold();
                    else connection.answer(run(id, ServerTest.Events.blocking("{}")));
                    return;
                }
                connection.startStream();
                connection.chunk(run(id, ServerTest.Events.started()));
                if (hold) {
                    held.countDown();
                    if (!tells) connection.hold();
                    await(stop("task-" + id));
                }
                connection.chunk(run(id, hold ? ServerTest.Events.finished("{}").replace("succeeded", "failed")
                        .replace("null", "\"Aborted: User requested stop\"") : ServerTest.Events.finished("{}")));
                connection.endStream();
            }

            private CountDownLatch stop(String task) {
                return stops.computeIfAbsent(task, _ -> new CountDownLatch(1));
            }

            private String run(String id, String text) {
                return text.replace(ServerTest.Events.RUN, "run-" + id).replace(ServerTest.Events.TASK, "task-" + id);
            }

            /// The log leads from a user to the run of its row; runs that were held have succeeded meanwhile.
            private void logs(ServerTest.Wire.Connection connection) throws IOException {
                var user = connection.last.replaceAll("(?s).*session_id=([^& ]*).*", "$1");
                var run = wire.requests.stream().filter(request -> request.contains("/workflows/run ")
                        && request.contains("\"" + user + "\"")).findFirst().orElseThrow();
                connection.answer(text("{'data':[{'workflow_run':{'id':'run-%s','status':'succeeded'},"
                        + "'created_by_end_user':{'session_id':'%s'}}]}", rowOf(run), user));
            }

            private void detail(ServerTest.Wire.Connection connection) throws IOException {
                var id = connection.last.replaceAll("(?s)GET /v1/workflows/run/run-(\\d+) .*", "$1");
                connection.answer(text("{'id':'run-%s','status':'%s','outputs':{},'error':null}", id,
                        stopped.contains("task-" + id) ? "stopped" : "succeeded"));
            }

            Map<String, String> settings() {
                return settingsFor(wire);
            }

            @Override
            public void close() throws IOException {
                wire.close();
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                signal, mode,      tells, stopped,                   open
                INT,    streaming, true,  3 tasks were asked to stop, ''
                TERM,   streaming, false, 3 tasks were asked to stop, 3 rows have runs that may still go on
                HUP,    blocking,  false, '',                         3 rows have runs that may still go on
                TERM,   blocking,  false, '',                         3 rows have runs that may still go on
                """)
        void thatIsInterruptedLeavesItsRowsPendingAndTheNextOneCompletes(String signal, String mode, boolean tells,
                String stopped, String open) throws Exception {
            try (var dify = new Holding(mode, 2, 3, tells)) {
                rows(8);
                var child = start(dify.settings(), List.of(), typed("run", "-c3", "--mode", mode, "--grace", "0.2"));
                dify.held.await();
                signal(signal, child);
                var call = ended(child);

                assertEquals(130, call.code(), call.err());
                assertTrue(call.err().contains("interrupted"), call.err());
                assertTrue(call.err().contains("2 succeeded, 6 pending"), call.err());
                assertEquals(!stopped.isEmpty(), call.err().contains("asked to stop"), call.err());
                assertEquals(!open.isEmpty(), call.err().contains("may still go on"), call.err());
                assertTrue(call.err().contains(stopped) && call.err().contains(open), call.err());
                assertFalse(Files.exists(file("results.jsonl.retry")));
                assertEquals("succeeded=2 pending=6", standing());
                assertEquals(5, dify.posts.get(), "nothing new starts");
                assertEquals(mode.equals("streaming") ? Set.of("task-3", "task-4", "task-5") : Set.of(), dify.stopped);

                dify.goOn.countDown();
                var next = call(dify.settings(), typed("run", "--mode", mode));
                assertEquals(0, next.code(), next.err());
                assertEquals("succeeded=8", standing());
                assertEquals(8, ids().size());
                assertEquals(mode.equals("streaming") ? 11 : 8, dify.posts.get(), "only stopped runs are run again");
            }
        }

        @Test
        void thatIsInterruptedTwiceEndsAtOnce() throws Exception {
            try (var dify = new Holding("blocking", 0, 2)) {
                rows(2);
                var child = start(dify.settings(), List.of(), typed("run", "--grace", "60", "--mode", "blocking"));
                dify.held.await();
                signal("INT", child);
                while (!content("child.err").contains("Ctrl-C again")) child.waitFor(20, TimeUnit.MILLISECONDS);
                signal("INT", child);

                var call = ended(child);
                assertEquals(130, call.code());
                assertTrue(call.err().contains("2 pending"), call.err());
                assertTrue(call.err().contains("2 rows have runs that may still go on"), call.err());
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void thatIsKilledLosesNothingAndPaysNothingTwice(String mode) throws Exception {
            try (var dify = new Holding(mode, 2, 3)) {
                rows(8);
                var child = start(dify.settings(), List.of(), typed("run", "-c", "3", "--mode", mode));
                dify.held.await();
                child.destroyForcibly().waitFor();

                dify.goOn.countDown();
                var next = call(dify.settings(), typed("run", "--mode", mode));
                assertEquals(0, next.code(), next.err());
                assertEquals("succeeded=8", standing());
                assertEquals(8, dify.posts.get());
                assertEquals(8, Set.copyOf(ids()).size());
            }
        }

        @Test
        void worksTheSameInAnyLocale() throws Exception {
            csv("id,title,text", "1,İıŞ,あ😀 \"x\"", "2,TITLE,[fail]", "3,I,[flaky]");

            var turkish = List.of("-Duser.language=tr", "-Duser.country=TR");
            var child = ended(start(Map.of("LC_ALL", "C"), turkish, "run", "--demo", "-i", "data.csv", "-o", "tr.jsonl",
                    "--mode", "STREAMING", "--initial-retry-delay", "10ms"));
            assertEquals(3, child.code(), child.err());
            call(Map.of(), typed("run", "--demo", "--mode", "streaming", "--initial-retry-delay", "10ms"));

            assertEquals(comparable("results.jsonl"), comparable("tr.jsonl"));
            assertEquals(comparable("results.jsonl.log"), comparable("tr.jsonl.log"));
            assertEquals(content("results.jsonl.retry"), content("tr.jsonl.retry"));
            for (var word : List.of("\"mode\":\"streaming\"", "\"outcome\":\"failed\""))
                assertTrue(content("tr.jsonl.log").contains(word), word);
            assertTrue(child.err().contains("2 succeeded, 1 failed in "), child.err());
            var status = ended(start(Map.of("LC_ALL", "C"), turkish, "status", "-o", "tr.jsonl"));
            assertTrue(status.out().lines().anyMatch(line -> line.matches("  succeeded +2 +66\\.7 % .*")), status.out());
        }

        /// The lines of a file without what differs from run to run, in a fixed order.
        private List<String> comparable(String name) throws IOException {
            return content(name).lines().map(line -> line
                    .replaceAll("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID")
                    .replaceAll("difyexec-[0-9a-f]{16}-\\d+", "USER")
                    .replaceAll("\\d{4}-\\d\\d-\\d\\dT[0-9:.]+Z", "TIME").replaceAll("127\\.0\\.0\\.1:\\d+", "HOST")
                    .replaceAll("\"(elapsed_time|seconds)\":[0-9.E-]+", "$1")).sorted().toList();
        }

        @Test
        void readsRowsFromStandardInput() throws Exception {
            var child = start(Map.of(), List.of(), "run", "--demo", "-i", "-", "-o", "results.jsonl");
            try (var in = child.getOutputStream()) {
                in.write("id,text\n1,あ\n2,b\n".getBytes(UTF_8));
            }

            assertEquals(0, ended(child).code(), content("child.err"));

            assertEquals(List.of("1", "2"), ids());
            assertEquals("あ", result("1").path("inputs").path("text").asText());
        }

        @Test
        void takesSettingsFromTheFileOfItsFolderBelowTheEnvironment() throws Exception {
            var dify = dify();
            rows(1);
            Files.writeString(file(".env"), """
                    # mine
                    DIFY_API_KEY=%s
                    DIFY_API_BASE_URL=http://127.0.0.1:1/v1
                    TIMEOUT=abc
                    """.formatted(KEY));

            var bad = ended(start(Map.of(), List.of(), typed("run")));
            assertEquals(2, bad.code());
            assertTrue(bad.sentence().startsWith("difyexec: TIMEOUT in .env, line 4: not a duration"), bad.err());

            var good = ended(start(Map.of("DIFY_API_BASE_URL", dify.url(), "TIMEOUT", "7"), List.of(), typed("run")));
            assertEquals(0, good.code(), good.err());
            dify.server.verify(1, postRequestedFor(urlEqualTo("/v1/workflows/run"))
                    .withHeader("Authorization", equalTo("Bearer " + KEY)));
        }
    }

    // ── Launcher and README ─────────────────────────────────────────────────────────────────────────────────────────

    /// Found upwards from the current folder.
    private static Path checkout() {
        var found = Stream.iterate(Path.of("").toAbsolutePath(), Objects::nonNull, Path::getParent)
                .filter(above -> Files.exists(above.resolve("README.md")))
                .filter(above -> Files.exists(above.resolve("DifyExec.java"))).findFirst();
        Assumptions.assumeTrue(found.isPresent(), "there is no README here");
        return found.get();
    }

    /// Needs the checkout. A script in Java's place plays JBang.
    @Nested
    class TheLauncher {
        private static final String JAVA = """
                #!/bin/sh
                printf '%s\\n' "HOME=$HOME" "$@"
                bin=${JBANG_DIR:-$HOME/.jbang}/bin
                mkdir -p "$bin"
                printf '#!/bin/sh\\nexec jbang run %s "$@"\\n' "$REF" >"$bin/difyexec"
                touch -t 209901010000 "$bin/difyexec" # clocks of files are coarse
                """;

        /// The launcher with a home or without, and a JBang that is there already.
        private Call launch(Map<String, String> settings, Path cache, String... args) throws Exception {
            var version = Files.readAllLines(launcher()).get(2).replace("v=", "");
            var jar = cache.resolve("difyexec/jbang-" + version + "/lib/jbang-cli-" + version + ".jar");
            Files.createDirectories(jar.getParent());
            if (!Files.exists(jar)) Files.createFile(jar);
            var java = Files.createDirectories(file("jdk/bin")).resolve("java");
            for (var program : List.of(java, java.resolveSibling("javac")))
                assertTrue(Files.writeString(program, JAVA).toFile().setExecutable(true));
            Files.writeString(file("jdk/release"), "JAVA_VERSION=\"25.0.1\"\n");

            var words = Stream.concat(Stream.of(launcher().toString()), Stream.of(args)).toList();
            var builder = new ProcessBuilder(words).directory(checkout().toFile()).redirectErrorStream(true);
            builder.environment().clear();
            builder.environment().putAll(Map.of("PATH", "/usr/bin:/bin", "JAVA_HOME", file("jdk").toString()));
            builder.environment().putAll(settings);
            var process = builder.start();
            var said = new String(process.getInputStream().readAllBytes(), UTF_8);
            return new Call(process.waitFor(), said, said);
        }

        private static Path launcher() {
            return checkout().resolve("jbang");
        }

        private String installed(String ref, String... more) throws Exception {
            Files.createDirectories(file("home/.jbang/bin"));
            Files.writeString(file("home/.jbang/bin/other"), "#!/bin/sh\nexec jbang run other \"$@\"\n");
            var settings = Map.of("HOME", file("home").toString(), "REF", ref);

            var call = launch(settings, file("home/.cache"), Stream.concat(Stream.of("app", "install"), Stream.of(more))
                    .toArray(String[]::new));

            assertEquals(0, call.code(), call.out());
            assertTrue(call.out().contains("\n-Duser.home=" + file("home") + "\n"), call.out());
            assertEquals("#!/bin/sh\nexec jbang run other \"$@\"\n", content("home/.jbang/bin/other"));
            return content("home/.jbang/bin/difyexec");
        }

        @Test
        void installsACommandThatNeedsNoJBangOnThePath() throws Exception {
            assertEquals("#!/bin/sh\nexec '" + launcher() + "' run '/a b/DifyExec.java' \"$@\"\n",
                    installed("'/a b/DifyExec.java'", "--name", "difyexec", "DifyExec.java"));
        }

        @Test
        void installsAnAliasTogetherWithItsCatalog() throws Exception {
            assertEquals("#!/bin/sh\nexec '" + launcher() + "' run --catalog '" + checkout()
                    .resolve("jbang-catalog.json") + "' difyexec \"$@\"\n", installed("difyexec", "difyexec"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "/"})
        void withoutAHomeUsesAFolderOfItsOwn(String home) throws Exception {
            boolean atTheRoot = Files.exists(Path.of("/.cache"));
            var own = file("difyexec-" + Files.getAttribute(folder, "unix:uid"));
            var settings = Map.of("HOME", home, "TMPDIR", folder.toString());

            var refused = launch(settings, file("elsewhere"), "app", "install", "DifyExec.java");
            assertEquals(2, refused.code(), refused.out());
            assertEquals("jbang: HOME is not set, and that is where commands are installed: set it.\n", refused.out());
            assertFalse(Files.exists(own));

            var call = launch(settings, own.resolve(".cache"), "version");
            assertEquals(0, call.code(), call.out());
            assertTrue(call.out().startsWith("HOME=" + own + "\n"), call.out());
            assertEquals(atTheRoot, Files.exists(Path.of("/.cache")));

            Files.move(own, file("foreign"));
            Files.createSymbolicLink(own, file("foreign"));
            var foreign = launch(settings, file("elsewhere"), "version");
            assertEquals(2, foreign.code(), foreign.out());
            assertEquals("jbang: HOME is not set, and " + own + " cannot stand in: set HOME.\n", foreign.out());
        }
    }

    /// Needs the checkout; elsewhere its tests are skipped.
    @Nested
    class TheReadme {
        /// The commands in its shell blocks that start like this.
        private List<List<String>> commands(String start) throws IOException {
            var readme = Files.readString(checkout().resolve("README.md"));
            var blocks = Pattern.compile("(?s)```sh\n(.*?)```").matcher(readme).results();
            return blocks.flatMap(block -> block.group(1).lines()).map(line -> line.replaceFirst("\\s+#.*", "").strip())
                    .filter(line -> line.startsWith(start)).map(line -> List.of(line.split("\\s+"))).toList();
        }

        @Test
        void itsDemoRunsAsItSays() throws IOException {
            var command = commands("./jbang DifyExec.java run --demo").getFirst();
            var args = new ArrayList<>(command.subList(2, command.size()));
            args.replaceAll(word -> word.endsWith(".csv") ? checkout().resolve(word).toString()
                    : word.endsWith(".jsonl") ? file(word).toString() : word);
            assertTrue(Files.isExecutable(checkout().resolve("jbang")));
            assertTrue(Files.exists(Path.of(args.get(args.indexOf("-i") + 1))));

            var call = call(Map.of(), args.toArray(String[]::new));

            assertEquals(3, call.code(), call.err());
            var shown = Files.readString(checkout().resolve("README.md"));
            for (var part : List.of("\\d+ succeeded, \\d+ failed in ", "tokens: \\d+", "\\d+ × Run failed: .*")) {
                var printed = Pattern.compile(part).matcher(call.err());
                assertTrue(printed.find(), () -> part + " in " + call.err());
                assertTrue(shown.contains(printed.group().strip()), () -> printed.group() + " is not in the README");
            }
        }

        @Test
        void itsTestsAreAnAliasOfTheCatalog() throws IOException {
            assertEquals(List.of("./jbang", "test"), commands("./jbang test").getFirst());

            var catalog = tree(Files.readString(checkout().resolve("jbang-catalog.json")));
            var alias = catalog.at("/aliases/test/script-ref").asText();
            assertTrue(Files.exists(checkout().resolve(alias)), alias);
        }

        @Test
        void itsCommandsCanBeParsed() throws IOException {
            var lines = Stream.of("jbang DifyExec.java ", "./jbang DifyExec.java ").flatMap(start -> {
                try {
                    return commands(start).stream();
                } catch (IOException problem) {
                    throw new UncheckedIOException(problem);
                }
            }).toList();

            assertFalse(lines.isEmpty());
            assertAll(lines.stream().map(line -> () -> commandLine(Env.of(Map.of()))
                    .parseArgs(line.subList(2, line.size()).toArray(String[]::new))));
        }
    }

    @Nested
    class ABatchOfAnotherApp {
        @TempDir Path folder;

        @Test
        void isRefusedSinceItsRunsCouldNotBeLookedUp() throws IOException {
            var input = Files.writeString(folder.resolve("data.csv"), "id,text\n1,a\n2,b\n");
            var output = folder.resolve("out.jsonl");
            Files.writeString(folder.resolve("out.jsonl.log"), """
                    {"event":"session","t":"2026-11-24T12:00:00Z","format":1,"base_url":"demo","app":"another app","server":"1.14.2"}
                    {"event":"attempt","t":"2026-11-24T12:00:00Z","id":"1","n":0,"user":"difyexec-0123456789abcdef-1","mode":"blocking","cells":"0000000000000000","kind":"row"}
                    """);
            var err = new StringWriter();

            int code = commandLine(Env.of(Map.of())).setErr(new PrintWriter(err, true))
                    .execute("run", "--demo", "-i", input.toString(), "-o", output.toString());

            assertEquals(2, code, err.toString());
            assertTrue(err.toString().contains("\"another app\""), err.toString());
            assertFalse(Files.exists(output));
        }
    }
}
