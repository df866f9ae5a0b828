package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.ServerTest.*;
import static difyexec.ServerTest.Ears;
import static org.junit.jupiter.api.Assertions.*;

/// `DifyClient` and a streamed run.
final class StreamTest {
    @Nested
    class AStreamingResponse {
        private Ears heard = new Ears();

        /// Reads a stream with these bytes; `limit` for its silences.
        private Response seen(Duration limit, Wire.Script events) throws IOException {
            try (var wire = new Wire(connection -> {
                connection.request();
                connection.startStream();
                events.serve(connection);
            }); var client = client(wire.url(), limit)) {
                return run(client, attempt(STREAMING), heard);
            }
        }

        private Response seen(String events) throws IOException {
            return seen(LONG, connection -> {
                connection.chunk(events);
                connection.endStream();
            });
        }

        private Response.Ran ranBy(String events) throws IOException {
            return ran(seen(events));
        }

        private static String outputs(Response.Ran ran) {
            return ran.outputs().toString();
        }

        @Test
        void reportsItsRunOnlyOnceAtTheFirstEvent() throws IOException {
            ranBy(Events.PING + Events.started() + Events.nodeFinished("{}") + Events.finished("{}"));

            assertEquals(List.of(Events.REF), heard.runs());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                last event                                                                                  | seen as
                {"event":"workflow_finished","workflow_run_id":"r","data":{"id":"r","status":"succeeded"}}  | Ran
                {"event":"workflow_finished","workflow_run_id":"r","data":{"id":"r","status":"failed"}}     | Ran
                {"event":"workflow_paused","workflow_run_id":"r","data":{"status":"paused"}}                | Ran
                {"event":"error","message":"x is required in input form","status":500}                      | Refused
                {"event":"error","workflow_run_id":null,"code":"invalid_param","status":400,"message":"m"}  | Refused
                """)
        void isClosedAfterItsFinalEventEvenIfTheServerKeepsItOpen(String last, String kind) throws Exception {
            try (var wire = new Wire(connection -> {
                connection.request();
                connection.startStream();
                connection.chunk(Events.PING + "data: " + last + "\n\n");
                connection.hold();
            }); var client = client(wire.url())) {
                var response = run(client, attempt(STREAMING), heard);

                assertEquals(kind, response.getClass().getSimpleName());
                wire.left.await(); // otherwise the connection is still held
            }
        }

        private static String another(String events) {
            return events.replace(Events.RUN, "22222222-2222-4222-8222-222222222222");
        }

        private static String failed(String error) {
            return Events.event("workflow_finished", Events.ended("failed", "null").replace("\"error\":null",
                    "\"error\":\"" + error + "\""));
        }

        /// What a stream says, and whether its run is known afterwards.
        static List<Arguments> contradictions() {
            String started = Events.started(), ended = Events.finished("{}");
            var bare = Given.json("data: {'event':'workflow_finished','data':{'status':'succeeded','outputs':{}}}\n\n");
            var ofAnotherRow = started.replace("\"id\":\"r1\"", Given.json("'id':'another row'"));
            var ofAnotherUser = started.replace("\"id\":\"r1\"", Given.json("'id':'r1','sys.user_id':'another'"));
            var others = Events.finished("{\"a\":1}") + Events.nodeFinished("{}") + Events.finished("{\"a\":2}");
            return List.of(Arguments.of("the end of another run", started + another(ended), true),
                    Arguments.of("an end without a run", started + bare, true),
                    Arguments.of("the inputs of another row", ofAnotherRow + ended, false),
                    Arguments.of("the inputs of another user", ofAnotherUser + ended, false),
                    Arguments.of("a failure and a success", started + failed("boom") + ended, true),
                    Arguments.of("a success and a failure", started + ended + failed("boom"), true),
                    Arguments.of("two successes", started + others, true));
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("contradictions")
        void leavesItsRunUnresolvedIfItContradictsItself(String what, String events, boolean known)
                throws IOException {
            var cut = cut(seen(events));

            assertEquals(Symptom.CONTRADICTED, cut.symptom());
            assertEquals(known ? Optional.of(Events.REF) : Optional.empty(), cut.run());
            assertEquals(known ? List.of(Events.REF) : List.of(), heard.runs());
        }

        @Test
        void isAttributedToItsFirstRunIfAnEventOfAnotherRunFollows() throws IOException {
            var cut = cut(seen(Events.started() + another(Events.nodeFinished("{}"))));

            assertEquals(Optional.of(Events.REF), cut.run());
        }

        @Test
        void countsARepeatedFinalEventOnce() throws IOException {
            var ran = ranBy(Events.started() + Events.finished("{\"a\":1}") + Events.finished("{\"a\":1}"));

            assertEquals("{\"a\":1}", outputs(ran));
        }

        @Test
        void takesTheRunFromEventsJustAfterAnErrorEvent() throws IOException {
            var error = Given.json("data: {'event':'error','workflow_run_id':null,'code':'invalid_param','status':400,"
                    + "'message':'No class mapping found'}\n\n");

            var response = refused(seen(LONG, connection -> {
                connection.chunk(Events.PING + error);
                connection.chunk(Events.started());
                connection.chunk(failed("Workflow stream ended without a terminal event"));
                connection.hold();
            }));

            assertEquals("No class mapping found", response.message());
            assertEquals("invalid_param", response.code());
            assertEquals(Optional.of(Events.REF), response.run());
        }

        @Test
        void isNotReadFurtherAfterItsRunHasFinished() throws IOException {
            var half = Events.finished("{}").substring(0, 40);

            var response = seen(Duration.ofMinutes(10), connection -> {
                connection.chunk(Events.started() + Events.finished("{\"a\":1}") + half);
                connection.hold();
            });

            assertEquals("{\"a\":1}", outputs(ran(response)));
        }

        @Test
        void keepsTheMessageAndStatusOfAnErrorWithoutACode() throws IOException {
            var response = seen(Events.PING
                    + Given.json("data: {'event':'error','message':'x is required in input form','status':500}\n\n"));

            assertEquals(Response.Refused.event(500, "", "x is required in input form", Optional.empty()), response);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                events before the end, run is known
                nothing,               false
                a ping,                false
                the start,             true
                """)
        void leavesItsRunUnresolvedIfItEndsWithoutAFinalEvent(String before, boolean known) throws IOException {
            var text = switch (before) {
                case "nothing" -> "";
                case "a ping" -> Events.PING;
                default -> Events.PING + Events.started();
            };

            for (var end : List.<Wire.Script>of(Wire.Connection::endStream, Wire.Connection::reset,
                    connection -> connection.say("fff\r\ndata: {\"event\":\"node_"), _ -> {})) {
                heard = new Ears();
                var cut = cut(seen(LONG, connection -> {
                    if (!text.isEmpty()) connection.chunk(text);
                    if (known) WholeCommand.await(heard.first()); // a reset would discard unread data
                    end.serve(connection);
                }));

                // with no event, the headers may be lost with the connection
                assertTrue(cut.symptom() == Symptom.CUT
                        || !known && cut.symptom() == Symptom.NO_RESPONSE, cut.toString());
                assertEquals(known, cut.run().equals(Optional.of(Events.REF)));
            }
        }

        @Test
        void leavesItsRunUnresolvedIfItsFinalEventIsTruncated() throws IOException {
            var finished = Events.finished("{\"answer\":\"x\"}");

            for (int length : List.of(finished.indexOf(",\"error\""), finished.length() - 3, finished.length() - 4))
                cut(seen(Events.started() + finished.substring(0, length)));
        }

        @ParameterizedTest
        @CsvSource({"true, TIMED_OUT", "false, STREAM_SILENT"})
        void countsSilenceAsATimeoutOnlyAfterItsRunHasStarted(boolean known, Symptom symptom) throws IOException {
            var cut = cut(seen(SHORT, connection -> {
                connection.chunk(Events.PING + (known ? Events.started() : ""));
                connection.hold();
            }));

            assertEquals(symptom, cut.symptom());
            assertEquals(known, cut.run().isPresent());
        }

        @Test
        void appliesTheTimeLimitOfARunOnceItsRunHasStarted() throws IOException {
            try (var wire = new Wire(connection -> {
                connection.request();
                connection.startStream();
                connection.chunk(Events.started());
                connection.hold();
            }); var client = client(access(wire.url()), SHORT, LONG)) {
                long began = System.nanoTime();

                var cut = cut(run(client, attempt(STREAMING), heard));

                assertEquals(Symptom.TIMED_OUT, cut.symptom());
                assertTrue(System.nanoTime() - began < LONG.toNanos(), "not for as long as a first event may take");
            }
        }

        @Test
        void isAcceptedEvenIfItIsABlockingResponse() throws IOException {
            try (var wire = new Wire(connection -> {
                connection.request();
                connection.answer(Events.blocking("{\"a\":1}"));
            }); var client = client(wire.url())) {
                var response = run(client, attempt(STREAMING), heard);

                assertEquals("{\"a\":1}", outputs(ran(response)));
            }
        }
    }
}
