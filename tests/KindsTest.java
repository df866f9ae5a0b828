package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.github.tomakehurst.wiremock.client.ResponseDefinitionBuilder;
import com.github.tomakehurst.wiremock.http.Fault;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;
import difyexec.Recorded.Exchange;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static org.junit.jupiter.api.Assertions.*;

/// Chat, agent and completion apps: recorded responses and messages, requests, and whole commands.
final class KindsTest extends WholeCommand {
    private static final String USER = "difyexec-0123456789abcdef-1";

    /// The kind of app that an exchange was recorded with; empty for an exchange with a workflow or a chatflow.
    private static Optional<AppKind> kind(Exchange exchange) {
        var name = exchange.name().matches("llm_.*|agent_modes") ? exchange.about() : exchange.name();
        if (name.matches("(wf|cf)_.*") || exchange.name().equals("llm_wrong_route")) return Optional.empty();
        return Stream.of("agent_chat", "agent_react", "agent", "completion", "chat").filter(name::startsWith)
                .findFirst().map(word -> AppKind.valueOf(word.replace("react", "chat").toUpperCase(Locale.ROOT)));
    }

    // ── Recorded exchanges ──────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    @Execution(ExecutionMode.SAME_THREAD)
    class RecordedKinds extends ServerTest.Served {
        @TestFactory
        Stream<DynamicTest> everyReplayedRowHasItsRecordedOutcome() {
            return tests(exchange -> exchange.isStart() && kind(exchange).isPresent(), this::replay);
        }

        @TestFactory
        Stream<DynamicTest> everyStoredMessageYieldsItsRecordedOutcome() {
            return tests(exchange -> exchange.line().startsWith("GET /v1/messages?") && exchange.status() == 200
                    && kind(exchange).isPresent(), this::look);
        }

        private static Stream<DynamicTest> tests(Predicate<Exchange> which, Consumer<Exchange> check) {
            return Stream.of("1.9.2", "1.16.1").flatMap(version -> Recorded.casesOfOthers(version).entrySet().stream()
                    .filter(each -> each.getValue().stream().anyMatch(which))
                    .map(each -> DynamicTest.dynamicTest(version + " " + each.getKey(), () -> assertAll(each.getValue()
                            .stream().filter(which).map(exchange -> () -> check.accept(exchange))))));
        }

        /// What chapter 16 says of a response: the verdict, the whole answer and the usage.
        private record Expected(String word, String answer, JsonNode usage) {
            static Expected of(Exchange exchange) {
                if (exchange.status() == 0) return new Expected("look up", "", tree("{}"));
                if (exchange.status() != 200) return ofRefusal(tree(exchange.text()));
                var body = exchange.isStream() ? tree("{}") : tree(exchange.text());
                if (!exchange.isStream()) return ofEnd(body, body.path("answer").asText());
                String pieces = "", agents = "";
                for (var event : Recorded.events(exchange.text())) {
                    var text = event.path("answer").asText();
                    switch (event.path("event").asText()) {
                        case "message" -> pieces += text;
                        case "agent_message" -> agents += text;
                        case "message_replace" -> pieces = text;
                        case "message_end" -> {
                            return ofEnd(event, pieces.isEmpty() ? agents : pieces);
                        }
                        case "error" -> {
                            boolean mayPass = event.path("message").asText().matches(".*(rate limit|down|429).*");
                            return new Expected(mayPass ? "look up or failed" : "failed", "", tree("{}"));
                        }
                        default -> {}
                    }
                }
                return new Expected("look up", "", tree("{}"));
            }

            private static Expected ofEnd(JsonNode end, String answer) {
                var usage = end.at("/metadata/usage");
                boolean isCutShort = usage.path("total_tokens").asInt() == 0
                        && usage.path("prompt_unit_price").asText().equals("1");
                return new Expected(isCutShort ? "failed" : "succeeded", answer, usage);
            }

            private static Expected ofRefusal(JsonNode body) {
                var message = body.path("message").asText();
                var word = message.startsWith("Too many requests") ? "throttled"
                        : message.startsWith("1 validation error for Data") ? "succeeded"
                        : message.matches("(?s)Input payload validation failed|1 validation error .*|Arg user must .*"
                                + "|Agent App only .*|Conversation Not Exists.*") ? "stop"
                        : message.matches("(?i).*(rate limit|unavailable|connection).*") ? "look up or failed"
                        : "failed";
                return new Expected(word, "", tree("{}"));
            }
        }

        private void replay(Exchange exchange) {
            var mode = exchange.isStream() ? Mode.STREAMING : Mode.BLOCKING;
            var attempt = ServerTest.attempt(mode, USER, Map.of("id", "r1", "text", "Why?"));
            var expected = Expected.of(exchange);
            var heard = new CopyOnWriteArrayList<StreamEvent>();

            var response = served(exchange, kind(exchange).orElseThrow(), attempt, heard);

            var verdict = ServerTest.judge().verdict(attempt, response);
            assertTrue(List.of(expected.word().split(" or ")).contains(Given.word(verdict)),
                    () -> exchange + ": " + response + " is to be " + expected.word() + " and is " + verdict);
            if (!expected.usage().isEmpty()) sameEnd(exchange, expected, ServerTest.ran(response));
            var tasks = Recorded.events(exchange.text()).stream().map(event -> event.path("task_id").asText())
                    .filter(task -> !task.isEmpty()).distinct().toList();
            var began = heard.stream().filter(StreamEvent.Began.class::isInstance)
                    .map(event -> ((StreamEvent.Began) event).run().task()).toList();
            if (exchange.isStream()) assertEquals(tasks, began, exchange::toString);
        }

        private void sameEnd(Exchange exchange, Expected expected, Response.Ran ran) {
            assertEquals(expected.answer(), ran.outputs().path("answer").asText(), exchange::toString);
            assertEquals(expected.usage().path("total_tokens").asLong(), ran.usage().cost().tokens(),
                    exchange::toString);
            if (ran.usage().cost().tokens() > 0) assertEquals(
                    new BigDecimal(expected.usage().path("total_price").asText()), ran.usage().cost().price(),
                    exchange::toString);
            assertEquals(expected.usage().path("latency").asDouble(), ran.usage().seconds(), exchange::toString);
            assertEquals(36, ran.message().id().length(), exchange::toString);
            assertTrue(exchange.text().contains(ran.message().id()), exchange::toString);
            assertFalse(ran.ref().isNamed(), exchange::toString);
            var tools = Recorded.events(exchange.text()).stream().map(event -> event.path("tool").asText())
                    .filter(tool -> !tool.isEmpty()).distinct().toList();
            assertEquals(tools, ran.outputs().path("thoughts").findValuesAsText("tool"), exchange::toString);
        }

        private Response served(Exchange exchange, AppKind kind, Attempt attempt, List<StreamEvent> heard) {
            boolean isCut = exchange.isStream() && exchange.end() != Recorded.End.SERVER;
            if (!isCut) {
                dify.resetMappings();
                dify.stubFor(any(anyUrl()).willReturn(exchange.status() == 0
                        ? aResponse().withFault(Fault.EMPTY_RESPONSE) : response(exchange)));
                return ask(client -> client.forApp(kind).run(attempt, ServerTest.asked(attempt), heard::add));
            }
            try (var wire = new ServerTest.Wire(connection -> {
                connection.request();
                connection.startStream();
                connection.chunk(exchange.text());
                connection.say("ffff\r\ndata: {\"event\":");
            }); var own = ServerTest.client(wire.url())) {
                return own.forApp(kind).run(attempt, ServerTest.asked(attempt), heard::add);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        private static ResponseDefinitionBuilder response(Exchange exchange) {
            var response = aResponse().withStatus(exchange.status()).withBody(exchange.text());
            exchange.headers().forEach(response::withHeader);
            return response;
        }

        /// A thought of the new agent may be a part of its answer.
        @Test
        void haveTheirLastThoughtTakenAsTheAnswerOfAnOldAgentOnly() {
            var message = Given.outputs(Given.json("{'answer':'','agent_thoughts':[{'tool':'','thought':'Yes'}]}"));

            assertEquals("succeeded", new StoredMessage(message, AppKind.AGENT_CHAT).result().word());
            assertEquals("unanswered", new StoredMessage(message, AppKind.AGENT).result().word());
        }

        private void look(Exchange messages) {
            var message = tree(messages.text()).at("/data/0");
            var kind = kind(messages).orElseThrow();
            var conversation = message.path("conversation_id").asText();
            dify.resetMappings();
            dify.stubFor(get(urlPathEqualTo("/v1/conversations"))
                    .willReturn(aResponse().withBody(Given.json("{'data':[{'id':'%s'}]}", conversation))));
            dify.stubFor(get(urlPathEqualTo("/v1/messages")).willReturn(response(messages)));

            var found = ask(client -> ServerTest.look(client.forApp(kind), ServerTest.lookUp(USER,
                    Optional.of(new RunRef(message.path("id").asText(), "task")), Symptom.CRASH)));

            var answer = message.path("answer").asText();
            var last = message.path("agent_thoughts").valueStream().reduce((_, next) -> next);
            boolean isOver = message.path("provider_response_latency").asDouble() > 0;
            boolean isThought = kind == AppKind.AGENT_CHAT && !isOver && answer.isEmpty() && last.isPresent()
                    && last.get().path("tool").asText().isEmpty() && !last.get().path("thought").asText().isEmpty();
            var word = message.path("status").asText().equals("error") ? "failed"
                    : isOver && message.path("total_tokens").asInt() == 0 ? "stopped"
                    : isOver || !answer.isEmpty() || isThought ? "succeeded" : "unanswered";
            assertEquals(word, found.word(), messages::toString);
            if (!(found instanceof LookUpResult.Ended(var ran, var inputs, _))) return;
            assertEquals(message.path("query").asText(), inputs.get("query"), messages::toString);
            assertEquals(isThought, ran.outputs().path("from_thoughts").asBoolean(), messages::toString);
            if (!isThought && !word.equals("failed"))
                assertEquals(answer, ran.outputs().path("answer").asText(), messages::toString);
            assertEquals(message.path("total_tokens").asLong(), ran.usage().cost().tokens(), messages::toString);
        }
    }

    // ── Sessions ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ASessionOfMessages extends Story.Sessions {
        static final List<Story> STORIES = Story.of("""
                a stream that is over its time is stopped and read to its end
                  given   rows a, STREAMING, CHAT, timeout 100
                  answers a: stoppable run-7 2s halted
                  then    a failed, error timed out, sent a, stopped task-of-run-7, passed 102..103

                without a price of the model, a row that was stopped has failed
                  given   rows a, STREAMING, COMPLETION, timeout 100
                  answers a: stoppable run-7 uncounted
                  then    a failed, error timed out

                a row that ended in spite of its stop has succeeded
                  given   rows a, STREAMING, AGENT, timeout 100
                  answers a: stoppable run-7 answered
                  then    a succeeded

                a row that somebody else stopped has failed, and is not looked up
                  given   rows a, STREAMING, AGENT_CHAT
                  answers a: began run-7 halted
                  then    a failed, error incomplete, looked 0

                after Ctrl-C, a stream is stopped and read to its end
                  given   rows a, STREAMING, CHAT, grace 20, interrupt 1
                  answers a: stoppable run-7 60s halted
                  then    stop INTERRUPTED, a interrupted, stopped task-of-run-7, passed 81..82
                  answers a: answered
                  then    a interrupted succeeded, sent a

                after Ctrl-C, a stream whose task is unknown is stopped at its first event
                  given   rows a, STREAMING, COMPLETION, grace 20, interrupt 1
                  answers a: 50s stoppable run-7 halted
                  then    stop INTERRUPTED, a interrupted, passed 50..51

                a second Ctrl-C closes streams
                  given   rows a, STREAMING, CHAT, grace 20, interrupt 1, interrupt 30
                  answers a: stoppable run-7 forever
                  then    stop INTERRUPTED, passed 31..32

                after the key was rejected, a stream is read to its end
                  given   rows a b, STREAMING, CHAT, slots 2
                  answers a: began run-7 60s answered; b: unauthorized
                  then    stop STOPPED, results a, passed 60..61

                a completion whose response is lost is unknown, and only sent again on request
                  given   rows a, STREAMING, COMPLETION, backoff 1 1 0
                  answers a: cut run-7, answered
                  finds   unlisted
                  then    a unknown, error completions, sent a, passed 0..1
                  then    a unknown unknown, sent none
                  given   resend
                  then    a unknown unknown resent succeeded, sent a

                a completion whose model failed is sent again without a look-up that shows it
                  given   rows a, STREAMING, COMPLETION
                  answers a: boom, answered
                  finds   unlisted
                  then    a again succeeded, sent a a

                a blocking chat that was cut is found again
                  given   rows a, BLOCKING, CHAT, timeout 100
                  answers a: 5s cut
                  finds   empty, empty, answered
                  then    a succeeded, sent a, passed 7..30

                a message that has tokens but no text yet is read once more
                  given   rows a, BLOCKING, CHAT
                  answers a: 5s cut
                  finds   textless, answered
                  then    answers So, looked 2, passed 9..10

                an answer that is empty twice is empty
                  given   rows a, STREAMING, AGENT
                  answers a: 5s cut
                  finds   textless
                  then    a succeeded, answers none, looked 2, passed 9..10

                a message that is found before its row is sent again, or late, can be torn, too
                  given   rows a, BLOCKING, CHAT
                  answers a: 5s cut
                  finds   RESEND: textless, answered; else: absent
                  then    sent a, answers So

                a late message can be torn, too
                  given   rows a, BLOCKING, CHAT
                  answers a: 5s cut, failed no
                  finds   LATE: textless, answered; else: absent
                  then    sent a a, answers So

                a message of a silent stream is not taken without its text
                  given   rows a, STREAMING, CHAT
                  answers a: 100s answered
                  finds   textless
                  then    answers So, passed 100..101

                a chat without a conversation was not started, in both modes
                  given   rows a, STREAMING, CHAT, timeout 100
                  answers a: 5s cut, answered
                  then    a not_started succeeded, sent a a, passed 35..60

                a stream whose message stays empty is unknown
                  given   rows a, STREAMING, AGENT, timeout 100
                  answers a: began run-7 5s cut run-7
                  finds   empty
                  then    a unknown, sent a, passed 100..101

                a message that was stopped has failed
                  given   rows a, BLOCKING, CHAT, timeout 100
                  answers a: 5s cut
                  finds   halted
                  then    a failed, error incomplete, sent a

                an answer without tokens is not taken as whole if this tool stopped its row (Dify 1.9)
                  given   rows a, STREAMING, CHAT, grace 0, interrupt 1, interrupt 2
                  answers a: stoppable run-7 forever
                  then    stop INTERRUPTED
                  finds   uncounted
                  then    a unknown, sent none

                a stopped message of a row that this tool interrupted lets the row run again
                  given   rows a, STREAMING, CHAT, grace 0, interrupt 1, interrupt 2
                  answers a: stoppable run-7 forever
                  then    stop INTERRUPTED
                  answers a: answered
                  finds   halted
                  then    a interrupted succeeded, sent a
                """);
    }

    // ── Whole commands ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ABatchOfEachKind {
        private Simulated dify;

        private Map<String, String> start(String app, String... options) throws IOException {
            dify = new Simulated(Stream.concat(Stream.of("--app", app, "--dify", "1.16.1", "--columns",
                    app.equals("completion") ? "id,text" : "id"), Stream.of(options)).toArray(String[]::new));
            csv(app.equals("completion") ? "id,text" : "id,query", "1,Why?", "2,fail=auth", "3,empty");
            return dify.settings();
        }

        @ParameterizedTest
        @CsvSource({"chat, auto, blocking", "chat, streaming, streaming", "agent-chat, auto, streaming",
            "agent, auto, streaming", "completion, auto, streaming", "completion, blocking, blocking"})
        void writesAnswersTokensAndPrices(String app, String mode, String sent) throws IOException {
            var call = call(start(app), typed("run", "--mode", mode));

            call.exits(3);
            assertEquals("succeeded=2 failed=1", status());
            var result = result("1");
            assertEquals("Answer to: Why?", result.at("/outputs/answer").asText().replace("1 Why?", "Why?"));
            assertEquals("", result("3").at("/outputs/answer").asText());
            assertTrue(result.path("total_tokens").asInt() > 0 && result.path("total_price").asDouble() > 0);
            assertEquals("USD", result.path("currency").asText());
            assertEquals(36, result.path("message_id").asText().length());
            assertEquals(app.equals("completion") ? 0 : 36, result.path("conversation_id").asText().length());
            for (var attempt : events("attempt")) assertEquals(sent, attempt.path("mode").asText());
            assertEquals(app.replace('-', ' '), events("session").getFirst().path("app_kind").asText());
            assertEquals(0, dify.count("twice"));
            call.mentions(app.replace('-', ' '));
            ofBatch("status").shows(app.replace('-', ' '));
        }

        @ParameterizedTest
        @CsvSource({"agent-chat, --mode", "agent, --mode"})
        void ofAgentsIsRejectedInBlockingMode(String app, String option) throws IOException {
            var settings = start(app);

            call(settings, typed("run", "--mode", "blocking")).exits(2).reports(option).hints(option);
            call(settings, "check", "-i", input(), "--mode", "blocking").exits(2).reports(option);
            assertEquals(0, dify.count("started"));
        }

        @Test
        void warnsThatABrokenChatStreamLosesItsAnswer() throws IOException {
            call(start("chat"), "check", "-i", input(), "--mode", "streaming").exits(0).says("Note: ");
        }

        @Test
        void ofCompletionsNotesBeforeItsFirstRowThatNothingCanBeLookedUp() throws IOException {
            call(start("completion"), "check", "-i", input()).exits(0).says("Note: ").mentions("completion");
        }

        @Test
        void needsItsQuestion() throws IOException {
            var settings = start("chat");
            csv("id,Question", "1,Why?");

            call(settings, typed("run")).exits(2).mentions("--query-column COLUMN", "Question: Why?");
            assertEquals(0, dify.count("started"));
            call(settings, typed("run", "--query-column", "Question")).exits(0);
        }

        @Test
        void ofCompletionsHasAQuestionOnlyIfItsColumnIsNamed() throws IOException {
            var settings = start("completion");
            csv("id,text,more", "1,Why?,And so?");

            call(settings, typed("run", "--query-column", "more")).exits(0);
            assertEquals("Answer to: And so?", result("1").at("/outputs/answer").asText());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                app      | files | cell                                      | code
                chat     | 2     | https://h/a.png                           | 0
                chat     | 2     | ["https://h/a.png","https://h/b.png"]     | 0
                chat     | 2     | https://h/a.png;https://h/b.png;http://h/c | 2
                chat     | 0     | https://h/a.png                           | 2
                workflow | 2     | https://h/a.png                           | 2
                """)
        void sendsAsManyFilesAsTheAppTakes(String app, int files, String cell, int code) throws IOException {
            var settings = start(app, "--files", String.valueOf(files));
            csv("id,query,doc", "1,Why?,\"" + cell.replace("\"", "\"\"") + "\"");

            var call = call(settings, "check", "-i", input(), "--files-column", "doc", "--show", "1");

            call.exits(code);
            if (code == 0) assertTrue(call.out().contains("\"files\""), call::toString);
            else call.mentions("doc".repeat(app.equals("workflow") ? 0 : 1));
            call(settings, "check", "-i", input(), "--files-column", "nosuch").exits(2);
            assertEquals(0, dify.count("started"));
        }

        @Test
        void doesNotContinueWithAnAppOfAnotherKind() throws IOException {
            var first = start("chat");
            call(first, typed("run")).exits(3);
            var url = first.get("DIFY_API_BASE_URL");
            var second = new HashMap<>(start("agent-chat"));
            replace("results.jsonl.log", url, second.get("DIFY_API_BASE_URL"));
            second.put("DIFY_API_KEY", "app-another-key");

            call(second, typed("run")).exits(2).reports("\"chat\"", "\"agent chat\"").hints("-o");
            assertEquals(0, dify.count("started"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent"})
        void isVerifiedByItsMessages(String app) throws IOException {
            var settings = start(app);
            csv("id,query", "1,Why?", "2,braces", "3,tool=current_time And?", "4,fail=auth");
            call(settings, typed("run")).exits(3);

            var findings = tree(call(settings, "verify", "-o", output(), "--json").exits(0).out()).path("findings");

            assertEquals("failed=1 matches=3", Stream.of("failed", "matches").map(kind -> kind + "="
                    + findings.path(kind).size()).collect(Collectors.joining(" ")), findings::toString);
            replace("results.jsonl", "Answer to: Why?", "Answer to: Who?");
            assertEquals(1, tree(call(settings, "verify", "-o", output(), "--json").exits(3).out())
                    .at("/findings/differs").size());
        }

        @Test
        void ofCompletionsCannotBeVerified() throws IOException {
            var settings = start("completion");
            call(settings, typed("run")).exits(3);

            assertEquals(2, call(settings, "verify", "-o", output()).exits(4).showsNothing().err().lines().count());
        }

        /// The stream is read to its end, so the server stores what there is.
        @ParameterizedTest
        @ValueSource(strings = {"chat", "agent-chat", "agent", "completion"})
        void isStoppedAtItsTimeAndKeepsTheTextSoFar(String app) throws IOException {
            var settings = start(app);
            csv(app.equals("completion") ? "id,text" : "id,query", "1,long=200 pause=100");

            call(settings, typed("run", "--mode", "streaming", "--timeout", "1s")).exits(3);

            var end = events("end").getLast();
            assertTrue(end.path("error").asText().startsWith("timed out"), end::toString);
            assertTrue(end.path("answer").asText().startsWith("word0 "), end::toString);
            assertEquals(List.of("timed out"), events("stop").stream().filter(stop -> stop.has("user"))
                    .map(stop -> stop.path("why").asText()).filter(why -> !why.isEmpty()).toList());
            assertEquals("failed=1", status());
        }

        @Test
        void notesAnswersWithoutTokensOnce() throws IOException {
            var settings = start("chat");
            csv("id,query", "1,[preset] Why?", "2,[preset] Who?");

            var call = call(settings, typed("run")).exits(0);

            assertEquals(1, call.err().lines().filter(line -> line.contains("no tokens")).count(), call::toString);
        }

        /// The tool is killed while all rows run.
        @Test
        void ofChatsFindsAllAnswersAfterAKill() throws Exception {
            var settings = start("chat", "--latency", "4s");
            csv(Stream.concat(Stream.of("id,query"), IntStream.rangeClosed(1, 100).mapToObj(id -> id + ",q " + id))
                    .toArray(String[]::new));
            var child = KindsTest.this.start(settings, typed("run", "-c", "100"));
            until("all rows", () -> dify.count("started") == 100);
            child.destroyForcibly().waitFor();

            call(settings, typed("run", "-c", "100")).exits(0);

            assertEquals("succeeded=100", status());
            for (var line : results()) assertEquals("Answer to: q " + line.path("id").asText(),
                    line.at("/outputs/answer").asText());
            assertEquals(100, dify.count("started"));
        }

        @Test
        void ofCompletionsSendsNoLostRowAgainUnlessAsked() throws IOException {
            var settings = start("completion");
            csv(Stream.concat(Stream.of("id,text"), IntStream.rangeClosed(1, 100).mapToObj(id -> id + ","
                    + (id % 5 == 0 ? "[drop-after] " : "") + id)).toArray(String[]::new));

            call(settings, typed("run", "-c", "20")).exits(3);
            assertEquals("succeeded=80 unknown=20", status());
            call(settings, typed("run")).exits(3).says("--resend-unknown").omits("Next: ");
            assertEquals(100, dify.count("started"));
            call(settings, typed("retry", "5")).exits(0);
            assertEquals("succeeded=81 unknown=19", status());
            assertEquals(101, dify.count("started"));
        }
    }
}
