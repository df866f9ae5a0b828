package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.github.tomakehurst.wiremock.WireMockServer;
import com.github.tomakehurst.wiremock.client.ResponseDefinitionBuilder;
import com.github.tomakehurst.wiremock.http.Fault;
import difyexec.DifyExec.Release.Listing;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.parallel.*;
import difyexec.Recorded.Exchange;

import module java.base;

import static difyexec.Given.tree;
import static difyexec.ServerTest.*;
import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.DifyExec.Response.ChatMessage;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static com.github.tomakehurst.wiremock.core.WireMockConfiguration.options;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Each recorded answer of a real server has the outcome that it implies.
@Execution(ExecutionMode.CONCURRENT)
final class RecordingsTest {
    @Nested
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    class RecordedResponses {
        private WireMockServer dify;
        private DifyClient client;

        @BeforeAll
        void start() {
            dify = new WireMockServer(options().dynamicPort().bindAddress("127.0.0.1").disableRequestJournal());
            dify.start();
            client = ServerTest.client(url());
        }

        @AfterAll
        void stop() {
            client.close();
            dify.stop();
        }

        private URI url() {
            return URI.create("http://127.0.0.1:" + dify.port() + "/v1");
        }

        @TestFactory
        Stream<DynamicTest> everyReplayedRunHasTheRecordedOutcome() {
            return tests(RecordedResponses::isWholeRun, (exchange, _) -> replay(exchange));
        }

        /// Neither the interim answer to a request without its body, nor only the beginning of an answer.
        private static boolean isWholeRun(Exchange exchange) {
            return (exchange.isRun() || exchange.isQuestion()) && exchange.status() != 100 && !exchange.isShortened();
        }

        /// A test for each case with such exchanges; `check` also gets the whole case.
        private Stream<DynamicTest> tests(Predicate<Exchange> which, Check check) {
            return Recorded.VERSIONS.stream().flatMap(version -> Recorded.cases(version).entrySet().stream()
                    .filter(each -> each.getValue().stream().anyMatch(which))
                    .map(each -> DynamicTest.dynamicTest(version + " " + each.getKey(), () -> assertAll(each.getValue()
                            .stream().filter(which).map(exchange -> () -> check.of(exchange, each.getValue()))))));
        }

        @FunctionalInterface private interface Check {
            void of(Exchange exchange, List<Exchange> all) throws IOException;
        }

        private void replay(Exchange exchange) throws IOException {
            var expected = Expected.of(exchange);
            var mode = exchange.isStream() ? STREAMING : BLOCKING;
            var attempt = attempt(exchange, mode, exchange.user());
            var heard = new Ears();

            var response = served(exchange, attempt, heard);

            var verdict = judge().verdict(attempt, response);
            assertTrue(List.of(expected.word().split(" or ")).contains(Given.word(verdict)),
                    () -> exchange + ": " + response + " is to be " + expected.word() + " and is " + verdict);
            if (verdict instanceof Outcome outcome && outcome.status() == RowStatus.FAILED)
                assertTrue(outcome.text().contains(expected.text().strip()), () -> exchange + ": " + outcome);
            if (!expected.run().isNull() && exchange.isQuestion()) sameAnswer(exchange, expected.run(), ran(response));
            else if (!expected.run().isNull()) sameRun(exchange, expected.run(), ran(response));
            if (mode == Mode.STREAMING && !(response instanceof Response.Refused)) assertEquals(
                    response.run().stream().map(RunRef::id).toList(),
                    heard.runs().stream().map(RunRef::id).toList(), exchange::toString);
        }

        /// Uses the recorded text: numbers and files would come back changed.
        private static Attempt attempt(Exchange exchange, Mode mode, String user) {
            var inputs = new LinkedHashMap<>(
                    Map.of("id", "r1", "text", exchange.request().at("/body/query").asText("x")));
            exchange.request().at("/body/inputs").properties().stream().filter(each -> each.getValue().isTextual())
                    .forEach(each -> inputs.put(each.getKey(), each.getValue().asText()));
            return ServerTest.attempt(mode, user, inputs);
        }

        /// Compares only the answer: no recorded one has files or sources.
        private void sameAnswer(Exchange exchange, JsonNode reported, Response.Ran response) throws IOException {
            var answer = reported.path("event").asText().equals("workflow_paused") ? ""
                    : exchange.text().contains("\"message_replace\"") ? "PRESET ANSWER"
                    : reported.path("answer").asText(reported.at("/data/outputs/answer").asText(""));
            assertEquals(answer, tree(response.outputs().toString()).path("answer").asText(""), exchange::toString);
            assertEquals(answer.isEmpty() ? 0 : 1, tree(response.outputs().toString()).size(), exchange::toString);
            assertEquals(reported.path("conversation_id").asText() + reported.path("message_id").asText(),
                    response.message().conversation() + response.message().id(), exchange::toString);
            assertEquals(reported.path("workflow_run_id").asText(), response.ref().id(), exchange::toString);
        }

        private void sameRun(Exchange exchange, JsonNode run, Response.Ran response) throws IOException {
            var data = run.path("data");
            assertEquals(run.path("workflow_run_id").asText(), response.ref().id(), exchange::toString);
            assertEquals(run.path("task_id").asText(), response.ref().task(), exchange::toString);
            if (data.has("workflow_id")) // a pause does not repeat it
                assertEquals(data.path("workflow_id").asText(), response.workflowId(), exchange::toString);
            var outputs = tree(data.path("outputs").toString().replace(":-0.0", ":0.0")); // zero has no sign
            assertEquals(outputs, tree(response.outputs().toString()), exchange::toString);
            assertEquals(data.path("error").asText(""), response.error(), exchange::toString);
            assertEquals(data.path("elapsed_time").asDouble(), response.usage().seconds(), exchange::toString);
            assertEquals(data.path("total_tokens").asLong(), response.usage().cost().tokens(), exchange::toString);
            assertEquals(data.path("total_steps").asInt(), response.usage().steps(), exchange::toString);
        }

        /// Serves by WireMock; by bytes if a connection breaks or is held, or if the recording has the bytes.
        private Response served(Exchange exchange, Attempt attempt, Ears listener) throws IOException {
            boolean stays = exchange.end() == Recorded.End.CLIENT && !exchange.text().contains("\"event\":\"error\"")
                    && !exchange.text().contains("\"event\":\"workflow_finished\"");
            boolean breaks = exchange.end() == Recorded.End.CUT;
            if (exchange.isRaw() || stays || breaks && exchange.isStream()) {
                try (var wire = new Wire(connection -> script(exchange, connection));
                        var own = ServerTest.client(wire.url(), stays ? SHORT : LONG)) {
                    return sent(own, exchange, attempt, listener);
                }
            }
            dify.resetMappings();
            dify.stubFor(post(urlEqualTo(exchange.isQuestion() ? "/v1/chat-messages" : "/v1/workflows/run"))
                    .willReturn(breaks ? aResponse().withFault(Fault.EMPTY_RESPONSE) : response(exchange)));
            return sent(client, exchange, attempt, listener);
        }

        private static Response sent(DifyClient client, Exchange exchange, Attempt attempt, Ears listener) {
            return exchange.isQuestion() ? client.forApp(AppKind.CHATFLOW).run(attempt, asked(attempt), listener)
                    : run(client, attempt, listener);
        }

        private static void script(Exchange exchange, Wire.Connection connection) throws IOException {
            connection.request();
            if (exchange.status() == 0) {
                connection.hold();
            } else if (exchange.isRaw()) {
                connection.say(exchange.response().path("raw_head").asText() + "\r\n\r\n"
                        + exchange.response().path("body").asText());
            } else {
                connection.startStream();
                if (!exchange.text().isEmpty()) connection.chunk(exchange.text());
                if (exchange.end() == Recorded.End.CLIENT) connection.hold();
                else connection.say("ffff\r\ndata: {\"event\":");
            }
        }

        private static ResponseDefinitionBuilder response(Exchange exchange) {
            var response = aResponse().withStatus(exchange.status()).withBody(exchange.text());
            exchange.headers().forEach(response::withHeader);
            return exchange.isStream() ? response.withChunkedDribbleDelay(5, 5) : response;
        }

        @TestFactory
        Stream<DynamicTest> everyMadeUpResultIsReplacedByTheStoredResultIfThereIsOne() {
            return tests(RecordedResponses::isMadeUp, this::confirm);
        }

        /// Only 1.16.0 makes ends up; its reconnect route is not a run.
        private static boolean isMadeUp(Exchange exchange) {
            return exchange.isRun() && exchange.text().contains("\"created_by\":{}");
        }

        /// A failure that is not stored keeps its first message.
        private void confirm(Exchange exchange, List<Exchange> all) throws IOException {
            var heard = new Ears();
            var response = served(exchange, attempt(exchange, STREAMING, exchange.user()), heard);
            var attempt = attempt(exchange, STREAMING, USER);
            var id = response.run().orElseThrow().id();
            var stored = all.stream().filter(each -> each.line().endsWith("/workflows/run/" + id)).toList();
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/" + id)).willReturn(stored.isEmpty()
                    ? aResponse().withStatus(404)
                            .withBody("{\"code\":\"not_found\",\"message\":\"Not found.\",\"status\":404}") : response(stored.getFirst())
                            .withBody(stored.getFirst().text().replace(exchange.user(), USER))));
            dify.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(aResponse().withBody("{\"data\":[]}")));
            var said = assertInstanceOf(Verdict.Unresolved.class, judge().verdict(attempt, response),
                    exchange::toString);
            assertEquals(Symptom.UNCONFIRMED, said.symptom(), exchange::toString);
            var lookUp = Given.lookUp(attempt, response, said, 0);

            var rules = new LookUpRules(judge(), new Limits(null, null, null, LONG, LONG, LONG), false, false);
            var found = ServerTest.look(client, lookUp);
            var verdict = rules.verdicts(lookUp, found, Given.here(Listing.FROM_START), attempt.at()).getFirst();
            var known = LookUpRules.known(lookUp, found);

            if (stored.stream().anyMatch(each -> each.status() == 200)) {
                var take = assertInstanceOf(Verdict.Take.class, verdict, exchange::toString);
                assertEquals(Outcome.SUCCEEDED, take.outcome(), exchange::toString);
                assertEquals(tree(stored.getFirst().text()).path("outputs"),
                        tree(((Response.Ran) known).outputs().toString()));
            } else isJudgedByItsWords(exchange, verdict, known);
        }

        /// Decided by its message: the row or the batch is refused. A cut stream proves nothing.
        private static void isJudgedByItsWords(Exchange exchange, Verdict verdict, Response known) throws IOException {
            var words = Stream.of(exchange.text().split("\n")).filter(line -> line.startsWith("data: "))
                    .map(line -> tree(line.substring(6)))
                    .map(event -> event.path("message").asText(event.at("/data/error").asText("")))
                    .filter(text -> !text.isEmpty()).findFirst().orElseThrow();
            var text = Given.textOf(verdict);
            assertEquals(exchange.text().contains("\"code\"") ? "stop" : words.contains("without a terminal event")
                    ? "look up" : "failed", Given.word(verdict), exchange::toString);
            assertTrue(text.contains(words), () -> exchange + ": " + text);
            assertEquals(Optional.empty(), known.run(), exchange::toString);
        }

        @TestFactory
        Stream<DynamicTest> everyLookUpOfARunFindsItsRecordedOutcome() {
            return tests(RecordedResponses::isDetail, this::look);
        }

        private static boolean isDetail(Exchange exchange) {
            return exchange.line().startsWith("GET /v1/workflows/run/") && exchange.status() != 0;
        }

        private void look(Exchange detail, List<Exchange> all) throws IOException {
            var body = tree(detail.text());
            var user = body.path("inputs").isTextual()
                    ? tree(body.path("inputs").asText()).path("sys.user_id").asText("u") : "u";
            var id = detail.line().substring(detail.line().lastIndexOf('/') + 1);
            dify.resetMappings();
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/" + id)).willReturn(response(detail)));

            var found = ServerTest.look(client, lookUp(user, Optional.of(new RunRef(id, "")), Symptom.CUT));

            if (detail.status() == 500) assertInstanceOf(LookUpResult.Inconclusive.class, found, detail::toString);
            else if (body.path("id").isNull() || detail.status() == 404)
                assertEquals(new LookUpResult.Absent(), found, detail::toString);
            else if (List.of("running", "paused").contains(body.path("status").asText()))
                assertEquals(body.path("status").asText(), found.word(), detail::toString);
            else ended(detail, body, ownOutputs(id, body.path("status").asText(), all),
                    assertInstanceOf(LookUpResult.Ended.class, found, detail::toString).ran());
        }

        private void ended(Exchange detail, JsonNode body, Optional<JsonNode> own, Response.Ran ran)
                throws IOException {
            var outputs = body.path("outputs");
            var whole = outputs.isTextual() ? tree(outputs.asText())
                    : outputs.isNull() ? Given.outputs("{}") : outputs;

            assertEquals(RunStatus.of(body.path("status").asText()), Optional.of(ran.status()),
                    detail::toString);
            assertEquals(body.path("id").asText(), ran.ref().id(), detail::toString);
            assertEquals(whole, tree(ran.outputs().toString()), detail::toString);
            if (own.isPresent()) assertEquals(own.get(), tree(ran.outputs().toString()), detail::toString);
            assertEquals(body.path("total_steps").asInt(), ran.usage().steps(), detail::toString);
            assertEquals(body.path("workflow_id").asText(), ran.workflowId(), detail::toString);
        }

        /// The outputs in the run's own answer in the same case, if it is there and reports the same end.
        private static Optional<JsonNode> ownOutputs(String id, String status, List<Exchange> all) throws IOException {
            for (var exchange : all) {
                if (!exchange.isRun() || !exchange.text().contains(id)) continue;
                var run = Expected.of(exchange).run();
                if (run.at("/data/status").asText().equals(status)) return Optional.of(run.at("/data/outputs"));
            }
            return Optional.empty();
        }

        /// Finding a chatflow's run that is not known.
        @TestFactory
        Stream<DynamicTest> everyRecordedChatMessageYieldsItsRunsAnswerOrError() {
            return tests(exchange -> exchange.line().startsWith("GET /v1/messages?") && exchange.status() == 200
                    && !exchange.text().contains("\"workflow_run_id\""),
                    (messages, _) -> message(messages));
        }

        private void message(Exchange messages) throws IOException {
            var message = stored(messages);
            boolean hasFailed = message.path("status").asText().equals("error");
            var text = message.path(hasFailed ? "error" : "answer").asText();

            var found = look(Optional.empty());

            if (text.isEmpty()) {
                boolean isOver = message.path("provider_response_latency").asDouble() > 0;
                assertEquals(new LookUpResult.Unanswered(isOver), found, messages::toString);
                return;
            }
            var ran = assertInstanceOf(LookUpResult.Ended.class, found, messages::toString).ran();
            assertEquals(text, hasFailed ? ChatMessage.FAILED + ran.error() : answer(ran), messages::toString);
            if (!hasFailed) assertEquals(message.path("id").asText(), ran.message().id(), messages::toString);
        }

        /// While it waits, and 1 s and 4 s after its form was sent.
        @TestFactory
        Stream<DynamicTest> aLookUpOfAPausedChatflowTakesTheStatusFromItsRun() {
            return tests(exchange -> isDetail(exchange) && exchange.name().startsWith("chatflow_paused_"),
                    this::isDecidedByItsRun);
        }

        private void isDecidedByItsRun(Exchange detail, List<Exchange> all) throws IOException {
            var run = tree(detail.text());
            stored(detail, all);

            for (var known : List.of(Optional.<RunRef>empty(), Optional.of(new RunRef(run.path("id").asText(), "")))) {
                var found = look(known);

                assertEquals(run.path("status").asText(), found.word());
                assertEquals(run.path("id").asText(), found.run().orElseThrow().id());
                if (found instanceof LookUpResult.Ended(var ran, _, _) && ran.status().isSuccess())
                    assertEquals("Let me ask. Note: fine", answer(ran));
            }
        }

        @TestFactory
        Stream<DynamicTest> aChatflowsAnswerComesFromItsMessageAndItsStatusFromItsRun() {
            return tests(exchange -> isDetail(exchange) && exchange.name().matches("chatflow_(moderated_out|partial)"),
                    this::isCombined);
        }

        private void isCombined(Exchange detail, List<Exchange> all) throws IOException {
            var run = tree(detail.text());
            var message = stored(detail, all);

            var ran = ((LookUpResult.Ended) look(Optional.of(new RunRef(run.path("id").asText(), "")))).ran();

            assertEquals(Optional.of(ran.status()), RunStatus.of(run.path("status").asText()));
            assertEquals(message.path("answer").asText(), answer(ran), "may differ from the run's");
        }

        private static final String USER = "difyexec-0123456789abcdef-1";

        private static String answer(Response.Ran ran) {
            return ran.outputs().path("answer").asText();
        }

        /// Serves these messages. Returns the first one.
        private JsonNode stored(Exchange messages) throws IOException {
            var message = tree(messages.text()).at("/data/0");
            var conversation = message.path("conversation_id").asText();
            dify.resetMappings();
            dify.stubFor(get(urlPathEqualTo("/v1/conversations")).withQueryParam("user", equalTo(USER))
                    .willReturn(aResponse().withBody(Given.json("{'data':[{'id':'%s'}]}", conversation))));
            dify.stubFor(get(urlPathEqualTo("/v1/messages")).withQueryParam("conversation_id", equalTo(conversation))
                    .willReturn(response(messages)));
            return message;
        }

        /// Also serves this detail, for which the recorder asked just after the messages.
        private JsonNode stored(Exchange detail, List<Exchange> all) throws IOException {
            var messages = all.get(all.indexOf(detail) - 1);
            var message = stored(messages);
            var user = messages.line().replaceAll(".*user=([^&]*).*", "$1");
            dify.stubFor(get(urlPathMatching("/v1/workflows/run/.*"))
                    .willReturn(response(detail).withBody(detail.text().replace(user, USER))));
            return message;
        }

        private LookUpResult look(Optional<RunRef> run) {
            return ServerTest.look(client.forApp(AppKind.CHATFLOW), lookUp(USER, run, Symptom.CRASH));
        }

        @TestFactory
        Stream<DynamicTest> everyWorkflowLogYieldsOnlyTheRunOfTheRequestedUser() {
            return tests(RecordedResponses::isLog, (log, _) -> find(log));
        }

        /// A log request by user, the only query that the client sends.
        private static boolean isLog(Exchange exchange) {
            return exchange.status() == 200 && exchange.line()
                    .matches("GET /v1/workflows/logs\\?created_by_end_user_session_id=[^&]+(&limit=\\d+)?");
        }

        private void find(Exchange log) throws IOException {
            var user = URLDecoder.decode(log.line().replaceAll(".*session_id=([^&]*).*", "$1"), UTF_8);
            var rows = tree(log.text()).path("data");
            var run = rows.path(0).path("workflow_run");
            String id = run.path("id").asText(), status = run.path("status").asText();
            dify.resetMappings();
            dify.stubFor(get(urlPathEqualTo("/v1/workflows/logs"))
                    .withQueryParam("created_by_end_user_session_id", equalTo(user)).willReturn(response(log)));
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/" + id)).willReturn(aResponse()
                    .withBody(Given.json("{'id':'%s','status':'%s','outputs':{}}", id, status))));

            var found = ServerTest.look(client, lookUp(user, Optional.empty(), Symptom.NO_RESPONSE));

            if (rows.isEmpty()) assertEquals(new LookUpResult.Absent(), found, log::toString);
            else assertEquals(id + " " + status.replace("partial-succeeded", "partial"),
                    found.run().orElseThrow().id() + " " + found.word(), log::toString);
        }
    }
}
