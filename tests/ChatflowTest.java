package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.ServerTest.Events;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static org.junit.jupiter.api.Assertions.*;

/// Chatflows: requests and responses, and whole commands against the simulator.
final class ChatflowTest extends WholeCommand {
    private static final String USER = "difyexec-0123456789abcdef-1";
    private static final String RESOURCES = Given.json("[{'document_name':'manual','segment_id':'s-1','score':0.50}]");

    private final List<StreamEvent> heard = new CopyOnWriteArrayList<>();

    private Response send(DifyClient client, Mode mode, String question) {
        var sent = ServerTest.attempt(mode, USER, Map.of("id", "r1", "text", question));
        return client.run(sent, ServerTest.asked(sent), heard::add);
    }

    // ── One exchange ────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AChatflowQuestion extends ServerTest.Served {
        private void answers(int status, String body) {
            dify.stubFor(any(anyUrl()).atPriority(9).willReturn(aResponse().withStatus(status)
                    .withHeader("Content-Type", "application/json").withHeader("X-Version", "1.16.0").withBody(body)));
        }

        private Response asked(Mode mode) {
            return ask(client -> send(client.forApp(AppKind.CHATFLOW), mode, "Why?"));
        }

        private Response streamed(String... events) {
            dify.stubFor(post(urlEqualTo("/v1/chat-messages")).willReturn(aResponse()
                    .withHeader("Content-Type", "text/event-stream").withHeader("X-Version", "1.9.2")
                    .withBody(String.join("", events))));
            return asked(Mode.STREAMING);
        }

        /// The first events of a chatflow.
        private static String event(String name, String more) {
            return Given.json("data: {'event':'%s','conversation_id':'c','message_id':'m','task_id':'%s',%s}\n\n",
                    name, Events.TASK, more);
        }

        private static String ofRun(String name, String data) {
            return event(name, Given.json("'workflow_run_id':'%s','data':%s", Events.RUN, data));
        }

        private static String started() {
            return ofRun("workflow_started", Given.json("{'id':'%s'}", Events.RUN));
        }

        private static String finished() {
            return ofRun("workflow_finished", Events.ended("succeeded", Given.json("{'answer':'So.','files':[]}")));
        }

        private static String messageEnd() {
            return event("message_end", Given.json("'metadata':{'retriever_resources':%s,'usage':{'total_tokens':40,"
                    + "'total_price':'0.0021','currency':'USD'}},'files':[]", RESOURCES));
        }

        @ParameterizedTest
        @ValueSource(booleans = {true, false})
        void getsItsSourcesWhetherItsMessageOrItsRunEndsFirst(boolean isLast) throws IOException {
            var response = ServerTest.ran(isLast ? streamed(started(), finished(), messageEnd())
                    : streamed(started(), messageEnd(), finished()));

            assertEquals("{\"answer\":\"So.\",\"retriever_resources\":" + RESOURCES + "}",
                    response.outputs().toString());
            assertEquals(List.of("c", "m", Events.RUN),
                    List.of(response.message().conversation(), response.message().id(), response.ref().id()));
            assertEquals(new Usage(1.5, 3, new Cost(40, new BigDecimal("0.0021"), "USD")), response.usage());
        }

        @Test
        void countsTheUsageReportedJustAfterItsRunFinished() throws IOException {
            try (var wire = new ServerTest.Wire(connection -> {
                connection.request();
                connection.startStream();
                connection.chunk(started() + finished());
                connection.chunk(messageEnd());
                connection.hold();
            }); var client = ServerTest.client(wire.url()).forApp(AppKind.CHATFLOW)) {
                assertEquals(40, ServerTest.ran(send(client, Mode.STREAMING, "Why?")).usage().cost().tokens());
            }
        }

        @ParameterizedTest
        @ValueSource(booleans = {true, false})
        void getsAReplacementAnswerInsteadOfTheAnswerOfItsRun(boolean isLast) {
            var pieces = event("message", Given.json("'answer':'So.'"))
                    + event("message_replace", Given.json("'answer':'Not'"))
                    + event("message", Given.json("'answer':' said.'"));

            var response = ServerTest.ran(isLast ? streamed(started(), finished(), pieces, messageEnd())
                    : streamed(started(), pieces, messageEnd(), finished()));

            assertEquals("{\"answer\":\"Not said.\",\"retriever_resources\":" + RESOURCES + "}",
                    response.outputs().toString());
        }

        @ParameterizedTest
        @ValueSource(strings = {"{}", "null", "{'files':[]}", "{'answer':null}"})
        void isLookedUpIfItsRunEndedWithoutAnAnswer(String outputs) {
            var response = ServerTest.cut(streamed(started(), event("message", Given.json("'answer':'So'")),
                    messageEnd(), ofRun("workflow_finished", Events.ended("succeeded", Given.json(outputs)))));

            assertEquals(Optional.of(Events.REF), response.run());
        }

        @ParameterizedTest
        @ValueSource(booleans = {true, false})
        void succeedsWithAModeratedAnswerEvenWithoutARun(boolean isEndMadeUp) {
            var made = ofRun("workflow_finished", Given.json("{'status':'failed','outputs':null,'total_steps':0}"));

            var ran = ServerTest.ran(streamed(event("message", Given.json("'answer':'Not '")), event("message",
                    Given.json("'answer':'said.'")), messageEnd(), isEndMadeUp ? started() + made : "event: ping\n\n"));

            assertEquals(Optional.empty(), ran.run());
            assertEquals("{\"answer\":\"Not said.\",\"retriever_resources\":" + RESOURCES + "}",
                    ran.outputs().toString());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                status | body                                                                        | seen
                200    | {"answer":"So.","conversation_id":"c","message_id":"m"}                     | SUCCEEDED {"answer":"So."}
                200    | {"answer":"","conversation_id":"c","message_id":"m"}                        | CUT
                200    | {"answer":"So.","conversation_                                              | CUT
                400    | {"code":"invalid_param","message":"Run failed: no city","status":400}       | FAILED no city
                400    | {"code":"invalid_param","message":"id is required in input form","status":400} | 400
                """)
        void getsItsOutcomeFromABlockingResponse(int status, String body, String seen) {
            answers(status, body);

            assertEquals(seen, switch (asked(Mode.BLOCKING)) {
                case Response.Ran ran -> ran.status() + " " + (ran.status().isSuccess() ? ran.outputs().toString()
                        : ran.error());
                case Response.Cut cut -> cut.symptom().toString();
                case Response.Refused refused -> "" + refused.status();
                case Response other -> other.toString();
            });
        }

        private void stored(String answer, String more) {
            dify.stubFor(get(urlPathEqualTo("/v1/conversations")).withQueryParam("user", equalTo(USER))
                    .willReturn(aResponse().withBody(Given.json("{'data':[{'id':'c'}]}"))));
            dify.stubFor(get(urlPathEqualTo("/v1/messages")).withQueryParam("user", equalTo(USER))
                    .withQueryParam("conversation_id", equalTo("c")).willReturn(aResponse().withBody(Given.json(
                            "{'data':[{'id':'m','conversation_id':'c','answer':'" + answer + "'," + more + "}]}"))));
        }

        private LookUpResult found(Optional<RunRef> run, Symptom symptom) {
            return ask(client -> ServerTest.look(client.forApp(AppKind.CHATFLOW),
                    ServerTest.lookUp(USER, run, symptom)));
        }

        @Test
        void isLookedUpByItsRunAndGetsItsSourcesFromItsMessage() {
            stored("So.", "'status':'normal','retriever_resources':" + RESOURCES);
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/r")).willReturn(aResponse().withBody(Given.json(
                    "{'id':'r','status':'succeeded','outputs':{'answer':'So.','files':[]}}"))));

            var ran = ((LookUpResult.Ended) found(Optional.of(new RunRef("r", "")), Symptom.CUT)).ran();

            assertEquals("{\"answer\":\"So.\",\"retriever_resources\":" + RESOURCES + "}",
                    ran.outputs().toString());
            assertEquals("r c m", ran.ref().id() + " " + ran.message().conversation() + " " + ran.message().id());
        }

        /// Also if its stream reported the end of another run.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                answer | message                                           | found
                Mine.  | 'status':'normal'                                 | succeeded {"answer":"Mine."}
                ``     | 'status':'error','error':'Run failed: no city'    | failed {}
                ``     | 'status':'normal'                                 | Unanswered[isOver=false]
                ``     | 'status':'normal','provider_response_latency':1.5 | Unanswered[isOver=true]
                """)
        void isLookedUpByItsUserIdIfItsRunIsUnknownOrNotItsOwn(String answer, String message, String expected) {
            stored(answer, message);
            dify.stubFor(get(urlEqualTo("/v1/workflows/run/other")).willReturn(aResponse().withBody(Given.json(
                    "{'id':'other','status':'succeeded','outputs':{'answer':'Theirs.'},"
                            + "'inputs':{'sys.user_id':'x'}}"))));

            for (var found : List.of(found(Optional.empty(), Symptom.NO_RESPONSE),
                    found(Optional.of(new RunRef("other", "")), Symptom.CONTRADICTED)))
                assertEquals(expected, found instanceof LookUpResult.Ended(var ran, _, _)
                        ? found.word() + " " + ran.outputs() : found.toString());
        }
    }

    @Nested
    class AChatflowRequest {
        private final Simulated dify = new Simulated("--app", "chatflow", "--silence", "1s");
        private final DifyClient client = ServerTest.client(dify.server.baseUrl()).forApp(AppKind.CHATFLOW);

        AChatflowRequest() throws IOException {
            open.add(client);
        }

        private RunRef run() {
            var run = dify.app.ledger().all().findFirst().orElseThrow().began.join();
            return new RunRef(run.id(), run.task());
        }

        @Test
        void isStoppedByTheTaskIdOfItsRun() {
            client.stop(new RunRef("r", "t"), USER);

            assertEquals(List.of("POST /v1/chat-messages/t/stop"),
                    dify.requests.stream().map(request -> request.method() + " " + request.path()).toList());
        }

        @Test
        void getsItsStreamedAnswerPieceByPiece() {
            send(client, Mode.STREAMING, "[replace]");

            assertEquals(Stream.of("Answer ", "to: ", "[replace]", "\nPRESET ANSWER").map(StreamEvent.Chunk::new)
                    .toList(), heard.stream().filter(StreamEvent.Chunk.class::isInstance).toList());
        }

        @Test
        void isPausedWhileItWaitsForAHuman() {
            var ran = ServerTest.ran(send(client, Mode.BLOCKING, "[pause]"));

            assertEquals(Response.RunStatus.PAUSED, ran.status());
            assertEquals(run(), ran.ref());
        }

        @Test
        void isLookedUpIfItsMessageHasEndedButNotItsRun() {
            var response = ServerTest.cut(send(client, Mode.STREAMING, "[lose-finish]"));

            assertEquals(Optional.of(run()), response.run());
        }

        @Test
        void countsAsNotStartedIfItsUserIdHasNoConversation() {
            assertEquals(new LookUpResult.Absent(), ServerTest.look(client,
                    ServerTest.lookUp(USER, Optional.empty(), Symptom.NO_RESPONSE)));
        }
    }

    // ── Whole commands ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AChatflowBatch {
        private Simulated dify;

        private Map<String, String> start(String app, String... options) throws IOException {
            dify = new Simulated(Stream.concat(Stream.of("--app", app), Stream.of(options)).toArray(String[]::new));
            return dify.settings();
        }

        @ParameterizedTest
        @CsvSource({"1.16.0, auto, streaming", "1.16.0, blocking, blocking", "1.14.2, auto, streaming",
            "1.9.2, auto, blocking", "1.9.2, streaming, streaming"})
        void writesTheAnswerToEachQuestionToTheResults(String version, String mode, String sent) throws IOException {
            var settings = start("chatflow", "--dify", version, "--columns", "id");
            csv("id,query", "1,\"Why, so?\"", "2,[flaky] あ", "3,[fail]");

            call(settings, typed("run", "--mode", mode)).exits(3);
            assertEquals("Answer to: Why, so?", result("1").at("/outputs/answer").asText());
            assertEquals("Answer to: [flaky] あ", result("2").at("/outputs/answer").asText());
            assertEquals("answer", keys(result("1").path("outputs")));
            assertEquals(36, result("1").path("conversation_id").asText().length());
            assertEquals(36, result("1").path("message_id").asText().length());
            assertEquals("succeeded=2 failed=1", status());
            for (var attempt : events("attempt")) assertEquals(sent, attempt.path("mode").asText());
            assertEquals(0, dify.count("twice"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "'workflow_id':'%s',"})
        void isSentWithItsInputsInANewConversation(String field) throws IOException {
            var settings = start("chatflow", "--columns", "id");
            var pin = field.isEmpty() ? "" : dify.app.published();
            csv("id,query", "r1,Why?");

            call(settings, typed("run", "--mode", "blocking", "--workflow-id", pin)).exits(0);

            var sent = Given.json("{'inputs':{'id':'r1'},'query':'Why?','response_mode':'blocking','user':'%s',"
                    + field + "'auto_generate_name':false}", user("r1"), pin);
            var bodies = dify.bodies("/v1/chat-messages");
            assertEquals(List.of(Given.tree(sent)), bodies.stream().map(Given::tree).toList());
        }

        /// 1.9.2 does not record an abandoned stream without a run id, so that stays open; all else is found again.
        @ParameterizedTest(name = "{0}, {1}, [{2}]")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                version, mode,      fault,       results
                1.16.0,  streaming, drop-before, 6
                1.16.0,  blocking,  drop-before, 6
                1.14.2,  streaming, drop-before, 6
                1.9.2,   blocking,  drop-before, 6
                1.9.2,   streaming, drop-before, 3
                1.9.2,   streaming, drop-after,  6
                1.16.0,  streaming, drop-after,  6
                1.16.0,  streaming, lose-finish, 6
                1.16.0,  blocking,  drop-after,  6
                1.16.0,  streaming, broken-running, 6
                1.16.0,  blocking,  kill,        3
                """)
        void recoversAnswersWithoutRunningARowTwiceAfterAFault(String version, String mode, String fault, int results)
                throws IOException {
            var settings = start("chatflow", "--dify", version, "--columns", "id",
                    "--latency", "200ms", "--silence", "1s");
            csv(Stream.concat(Stream.of("id,query"), IntStream.rangeClosed(1, 6).mapToObj(id -> id + ","
                    + (id % 2 == 0 ? "[" + fault + "] " : "") + id)).toArray(String[]::new));

            call(settings, typed("run", "--mode", mode, "-c", "3", "--settle", "10s", "--timeout", "4s"))
                    .exits(results == 6 ? 0 : 3);

            for (var line : results()) {
                var end = line.at("/outputs/answer").asText().replaceFirst(".* ", "");
                assertEquals(line.path("id").asText(), end, line::toString);
            }
            assertEquals(0, dify.count("twice"));
            assertEquals(results == 6 ? "succeeded=6" : "succeeded=3 unknown=3", status());
        }

        /// Also if no answer had the id of its run.
        @ParameterizedTest
        @CsvSource({"1.16.0, auto", "1.16.0, blocking", "1.9.2, blocking"})
        void restoresLostResultsWithoutRunningRowsAgain(String version, String mode) throws IOException {
            var settings = start("chatflow", "--dify", version, "--columns", "id");
            csv("id,query", "1,Why?", "2,Who?");
            call(settings, typed("run", "--mode", mode));
            Files.writeString(file("results.jsonl"), "");

            call(settings, typed("run", "--mode", mode)).exits(0);
            assertEquals("Answer to: Who?", result("2").at("/outputs/answer").asText());
            assertEquals(36, result("1").path("message_id").asText().length());
            assertEquals(2, dify.count("started"));
        }

        @ParameterizedTest
        @CsvSource({"1.16.0, auto", "1.16.0, blocking", "1.14.2, auto", "1.9.2, auto", "1.9.2, blocking"})
        void doesNotRepeatARowThatSucceededInTheShell(String version, String mode) throws IOException {
            var settings = start("chatflow", "--dify", version, "--columns", "id");
            csv("id,query", "1,Why?", "2,Who?");
            inShell(settings, "retry 1", "--mode", mode).exits(0);

            call(settings, typed("run", "--mode", mode)).exits(0);
            assertEquals("Answer to: Why?", result("1").at("/outputs/answer").asText());
            assertEquals(2, dify.count("started"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"--mode=auto", "--no-check"})
        void isRejectedIfAQuestionIsEmpty(String option) throws IOException {
            var settings = start("chatflow", "--columns", "id");
            csv("id,query", "1,Why?", "2,");

            call(settings, typed("run", option)).exits(2).says("line 3, id 2: query");
            assertEquals(0, dify.count("started"));
        }

        @Test
        void isCheckedAndItsRequestShown() throws IOException {
            var settings = start("chatflow", "--columns", "id");
            csv("id,query", "1,Why?", "2,");
            call(settings, "check", "-i", input()).exits(2).shows("line 3, id 2: query");
            csv("id,query", "1,Why?");

            call(settings, "check", "-i", input(), "--show", "1").exits(0)
                    .shows("\"query\":\"Why?\",\"response_mode\":\"streaming\"", "/v1/chat-messages -H");
        }

        @ParameterizedTest
        @CsvSource({"'id,Query', --query-column Query", "'id,que-ry', --query-column que-ry",
                "'id,Query,QUERY', --query-column COLUMN", "'id,Question', --query-column COLUMN",
                "'id,tone', --query-column COLUMN"})
        void suggestsOnlyTheColumnWithItsNameAsTheQuestion(String header, String option) throws IOException {
            var settings = start("chatflow", "--columns", "id");
            csv(header, header);

            call(settings, typed("run")).exits(2).hints(option);
            call(settings, typed("run", "--allow-unmapped")).exits(2);
        }

        @Test
        void isAnsweredLiveDuringARetryInTheShell() throws IOException {
            var settings = start("chatflow", "--columns", "id");
            csv("id,question", "1,Why?");

            inShell(settings, "retry 1", "--query-column", "question").shows("| Answer to: Why?");
        }

        @Test
        void mustNotBeInAColumnThatIsAlsoAVariable() throws IOException {
            csv("id,tone", "1,x");
            var csv = Csv.open(file("data.csv"), Csv.Shape.DEFAULT);
            var variable = new Variable("tone", "", "text-input", false, false, List.of(), Value.Str::new);
            var form = new Form(List.of(variable), csv.columns(), false).withQuestion("tone", csv.columns());

            var fault = form.faults(csv, false, Map.of()).getFirst();

            assertTrue(fault.toString().contains("\"tone\"") && !fault.toString().contains("--query-column tone"),
                    fault.toString());
        }
    }
}
