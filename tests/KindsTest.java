package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.github.tomakehurst.wiremock.client.ResponseDefinitionBuilder;
import com.github.tomakehurst.wiremock.http.Fault;
import org.junit.jupiter.api.*;
import difyexec.Recorded.Exchange;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Recorded.json;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static org.junit.jupiter.api.Assertions.*;

/// Chat, agent and completion apps: recorded responses and messages, requests, and whole commands.
@Timeout(90)
final class KindsTest {
    private static final String USER = "difyexec-0123456789abcdef-1";

    /// The kind of app that an exchange was recorded with; empty for an exchange with a workflow or a chatflow.
    private static Optional<AppKind> kind(Exchange exchange) {
        var name = exchange.name().matches("llm_.*|agent_modes") ? exchange.about() : exchange.name();
        if (name.matches("(wf|cf)_.*") || exchange.name().equals("llm_wrong_route")) return Optional.empty();
        return Stream.of("agent_chat", "agent_react", "agent", "completion", "chat").filter(name::startsWith).findFirst()
                .map(word -> AppKind.valueOf(word.replace("react", "chat").toUpperCase(Locale.ROOT)));
    }

    // ── Recorded exchanges ──────────────────────────────────────────────────────────────────────────────────────────

    @Nested
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
                if (exchange.status() == 0) return new Expected("look up", "", json("{}"));
                if (exchange.status() != 200) return ofRefusal(json(exchange.text()));
                if (!exchange.isStream()) return ofEnd(json(exchange.text()), json(exchange.text()).path("answer").asText());
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
                            return new Expected(mayPass ? "look up or failed" : "failed", "", json("{}"));
                        }
                        default -> {}
                    }
                }
                return new Expected("look up", "", json("{}"));
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
                        : message.matches("(?i).*(rate limit|unavailable|connection).*") ? "look up or failed" : "failed";
                return new Expected(word, "", json("{}"));
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
            assertEquals(expected.usage().path("total_tokens").asLong(), ran.usage().cost().tokens(), exchange::toString);
            if (ran.usage().cost().tokens() > 0) assertEquals(
                    new BigDecimal(expected.usage().path("total_price").asText()), ran.usage().cost().price(),
                    exchange::toString);
            assertEquals(expected.usage().path("latency").asDouble(), ran.usage().seconds(), exchange::toString);
            assertTrue(exchange.text().contains(ran.message().id()) && !ran.message().id().isEmpty(), exchange::toString);
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

        private void look(Exchange messages) {
            var message = json(messages.text()).at("/data/0");
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
}
