package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Reading what the server sends: streams, events, answers.
final class DifyTest {
    @Nested
    class TheStreamOfEvents {
        private static List<String> events(String text, int pieces) {
            var found = new ArrayList<String>();
            var lines = new BufferedReader(new InputStreamReader(inPieces(text, pieces), UTF_8));
            try {
                for (var data = Transport.event(lines); data.isPresent(); data = Transport.event(lines))
                    found.add(data.get());
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
            return found;
        }

        /// Reads it in one piece, byte by byte, and in between: the result is always the same.
        private static void assertEvents(List<String> expected, String text) {
            for (int pieces : new int[] {1, 2, 3, 7, 1 << 20})
                assertEquals(expected, events(text, pieces), pieces + " bytes a read");
        }

        @Test
        void eachEventIsItsDataAndAllElseIsIgnored() {
            assertEvents(List.of(), "");
            assertEvents(List.of(), "\n\n\n");
            assertEvents(List.of(), "dat");
            assertEvents(List.of("one", "two"), "event: ping\n\ndata: one\n\nevent: ping\n\nevent: ping\n\ndata: two\n\n");
            assertEvents(List.of("one\ntwo", "three"), ": hello\n\nid: 7\nevent: message\ndata: one\n: in between\n"
                    + "retry: 5\ndata: two\n\ndatabase: no\ndata: three\n\n");
        }

        @Test
        void linesCanEndInCrLfAndOneBlankAfterTheColonIsNotData() {
            assertEvents(List.of("one\ntwo", "three"),
                    "data: one\r\ndata: two\r\n\r\nevent: ping\r\n\r\ndata: three\r\n\r\n");
            assertEvents(List.of("a", "a", " a", ""), "data:a\n\ndata: a\n\ndata:  a\n\ndata:\n\n");
        }

        @Test
        void theLastEventMayBeCutOff() {
            assertEvents(List.of("one", "two"), "data: one\n\ndata: two");
            assertEvents(List.of("one", "two"), "data: one\n\ndata: two\n");
            assertEvents(List.of("{\"half\":"), "data: {\"half\":");
        }

        @Test
        void aMultiByteCharacterCanArriveInPieces() {
            assertEvents(List.of("größer 日本語 😀", "ß"), "data: größer 日本語 😀\n\ndata: ß\n\n");
        }

        @Test
        void aLineMayBeMegabytesLong() {
            var text = "ä".repeat(3 << 20);

            assertEquals(List.of(text, "end"), events("data: " + text + "\n\ndata: end\n\n", 100_000));
        }
    }

    @Nested
    class TheRunReader {
        @TempDir Path folder;
        private final RunReader reader = new RunReader();

        private void read(String json) throws IOException {
            reader.add(Json.MAPPER.readTree(json));
        }

        private Optional<Response.Ran> ran() {
            return reader.ran();
        }

        private static String outputs(Response response) {
            return Json.wellFormed(((Response.Ran) response).outputs().toString());
        }

        /// A blocking answer with these outputs.
        private Response.Ran answered(String outputs) throws IOException {
            read(("""
                    {"task_id": "t1", "workflow_run_id": "r1", "data": {"id": "r1", "workflow_id": "w1", \
                    "status": "succeeded", "outputs": %s, "error": null, "elapsed_time": 1.234567, "total_tokens": 42, \
                    "total_steps": 3, "created_at": 1705407629, "finished_at": 1705407630}}""".formatted(outputs)));
            return ran().orElseThrow();
        }

        @Test
        void aBlockingAnswerIsARun() throws IOException {
            var ran = answered("{\"answer\": \"\\u00e4 \\/ b\"}");

            assertEquals(new RunRef("r1", "t1"), ran.ref());
            assertEquals(RunStatus.SUCCEEDED, ran.status());
            assertEquals("{\"answer\":\"ä / b\"}", outputs(ran));
            assertEquals("", ran.error());
            assertEquals("w1", ran.workflowId());
            assertEquals(new Usage(1.234567, 42, 3, Optional.empty(), ""), ran.usage());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                reported                                    | kept
                {}                                          | {}
                null                                        | {}
                {"n": 123456789012345678901234567890}       | {"n":123456789012345678901234567890}
                {"n": 0.1234567890123456789012345}          | {"n":0.1234567890123456789012345}
                {"n": 1.10}                                 | {"n":1.10}
                {"n": 1e2, "m": 1E99999, "k": 1.5e-7}       | {"n":1E+2,"m":1E+99999,"k":1.5E-7}
                {"n": NaN, "m": -Infinity}                  | {"n":"NaN","m":"-Infinity"}
                {"n": null, "t": true, "l": [1, {"a": []}]} | {"n":null,"t":true,"l":[1,{"a":[]}]}
                {"text": "{\\"inner\\": 1}"}                | {"text":"{\\"inner\\": 1}"}
                {"\\ud83d": ["\\ud83d end", "\\ude00"]}      | {"\uFFFD":["\uFFFD end","\uFFFD"]}
                {"\\ud83d\\ude00": "\\ud83d\\ud83d\\ude00"}  | {"😀":"\uFFFD😀"}
                "{\\"text\\": \\"\\\\ud83d end\\"}"            | {"text":"\uFFFD end"}
                """)
        void outputsKeepTheirNumbersAsWritten(String reported, String kept) throws IOException {
            assertEquals(kept, outputs(answered(reported)));
        }

        @Test
        void longOutputsAreKept() throws IOException {
            var large = "{\"a\":" + "[".repeat(900) + "]".repeat(900) + ",\"b\":\"" + "x".repeat(30_000_000) + "\"}";

            assertEquals(large, outputs(answered(large)));
        }

        @Test
        void anAnswerWithoutAStatusIsNotARun() throws IOException {
            read(("{\"workflow_run_id\": \"r1\", \"data\": {\"id\": \"r1\"}}"));

            assertEquals(Optional.empty(), ran());
            assertEquals(Optional.of(new RunRef("r1", "")), reader.ref());
        }

        /// Events of the run `r1`, with the task `t1`.
        private void events(String... events) throws IOException {
            for (var event : events) read(json(event));
        }

        private static String event(String name, String data) {
            return "{'event':'" + name + "','workflow_run_id':'r1','task_id':'t1','data':" + data + "}";
        }

        @Test
        void aStreamIsARunOnceItHasFinished() throws IOException {
            events(event("workflow_started", "{'id':'r1','workflow_id':'w1'}"));
            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());
            assertEquals(Optional.empty(), ran());

            events(event("node_finished", """
                            {'id':'n1','node_id':'llm','status':'succeeded','outputs':{'text':'no'},'error':null,\
                            'elapsed_time':9.9}"""),
                    event("workflow_finished", """
                            {'id':'r1','workflow_id':'w1','status':'failed','outputs':{'a':1},'error':'no such city',\
                            'elapsed_time':2.5,'total_tokens':7,'total_steps':2,'exceptions_count':0,'files':[]}"""));

            var ran = ran().orElseThrow();
            assertTrue(reader.end().isPresent());
            assertEquals(RunStatus.FAILED, ran.status());
            assertEquals("no such city", ran.error());
            assertEquals("{\"a\":1}", outputs(ran));
            assertEquals(2.5, ran.usage().seconds());
        }

        @Test
        void whatAModelThinksIsShownLikeText() throws IOException {
            events(event("reasoning_chunk", "{'reasoning':'Let me think.','node_id':'llm','is_final':true}"));

            assertEquals(new StreamEvent.Chunk("Let me think."), reader.streamEvent());
        }

        @ParameterizedTest
        @CsvSource({"1795537934, 2026-11-24T16:32:14Z", "null, -", "0, -", "-5, -", "1e300, -", "'\"soon\"', -"})
        void aFormMayHaveNoTimeAtWhichItExpires(String expiration, String until) throws IOException {
            events(event("human_input_required", "{'form_id':'f','node_title':'Sign','form_token':null,"
                    + "'expiration_time':" + expiration + "}"));

            var form = assertInstanceOf(StreamEvent.Form.class, reader.streamEvent());
            assertEquals(until, form.until().map(Instant::toString).orElse("-"));
            assertEquals(List.of("Sign", ""), List.of(form.node(), form.token()));
        }

        @Test
        void theFirstEventOfAnyKindIdentifiesTheRun() throws IOException {
            events(event("text_chunk", "{'text':'x','from_variable_selector':null}"));

            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());
        }

        @Test
        void theIdsOfNodesAndMessagesAreNotTheRuns() throws IOException {
            events("{'event':'message','id':'m1','message_id':'m1','answer':'x'}");
            assertEquals(Optional.empty(), reader.ref());

            events(event("", "{'id':'n1','status':'succeeded','outputs':{}}"),
                    event("node_started", "{'id':'n1','workflow_id':'no'}"),
                    event("iteration_completed", "{'id':'n2','status':'succeeded'}"),
                    "{'workflow_run_id':'r1','data':{'id':'n2'},'event':null}");

            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());
            assertEquals(Optional.empty(), ran());
        }

        @Test
        void eventsAndFieldsOfLaterVersionsAreIgnored() throws IOException {
            events(event("reasoning_chunk", "{'id':'x','status':'failed','reasoning':[{}]}"));
            assertEquals(Optional.empty(), ran());
            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());

            events(event("workflow_finished", "{'new':{'a':[1]},'id':'r1','status':'succeeded','outputs':{}}"));

            assertEquals(RunStatus.SUCCEEDED, (ran().orElseThrow()).status());
        }

        @Test
        void pricesOfNodesAreSummedExactly() throws IOException {
            var data = "{'id':'n','execution_metadata':{'total_price':%s,'currency':'USD','more':{'total_price':'9'}}}";
            events(event("node_finished", data.formatted("'0.1'")), event("node_finished", data.formatted("0.2")),
                    event("node_finished", data.formatted("'0.0000123'")), event("node_retry", data.formatted("'5'")),
                    event("node_finished", data.formatted("null")),
                    event("node_finished", "{'execution_metadata':null}"),
                    event("workflow_finished", "{'id':'r1','status':'succeeded'}"));

            var usage = (ran().orElseThrow()).usage();
            assertEquals(Optional.of(new BigDecimal("0.3000123")), usage.price());
            assertEquals("USD", usage.currency());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                one,     its,  other, theirs, price, currency
                0.1,     USD,  5,     RMB,    -,     ''
                0.1,     USD,  0,     RMB,    0.1,   USD
                0,       USD,  0,     RMB,    0,     USD
                0E-7,    USD,  1.5,   USD,    1.5,   USD
                -0.1,    USD,  5,     USD,    -,     ''
                1,       USD,  much,  USD,    -,     ''
                1E99999, USD,  1,     USD,    -,     ''
                """)
        void aRunHasAPriceInOnlyOneCurrency(String one, String its, String other, String theirs, BigDecimal price,
                String currency) throws IOException {
            var data = "{'id':'n','execution_metadata':{'total_price':'%s','currency':'%s'}}";
            events(event("node_finished", data.formatted(one, its)), event("node_finished", data.formatted(other, theirs)),
                    event("workflow_finished", "{'id':'r1','status':'succeeded'}"));

            var usage = ran().orElseThrow().usage();
            assertEquals(0, usage.price().map(reported -> reported.compareTo(price)).orElse(price == null ? 0 : 1));
            assertEquals(currency, usage.currency());
        }

        private LookUpResult detail(String status, String outputs) throws IOException {
            return found("""
                    {"id":"r1","workflow_id":"w1","status":"%s","inputs":"{\\"id\\": \\"no\\"}","outputs":%s,\
                    "error":null,"total_steps":3,"total_tokens":42,"created_at":1,"finished_at":2,"elapsed_time":1.5}"""
                    .formatted(status, outputs));
        }

        private LookUpResult found(String detail) throws IOException {
            read("{\"data\":" + detail + "}");
            return reader.result(new RunRef("r1", "t1"), NOON);
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                outputs                                 | kept
                {"a": 1, "b": "\\/"}                    | {"a":1,"b":"/"}
                "{\\"a\\": 1, \\"b\\": \\"\\\\/\\"}"    | {"a":1,"b":"/"}
                "{}"                                    | {}
                "null"                                  | {}
                null                                    | {}
                "{\\"n\\": 12345678901234567890}"       | {"n":12345678901234567890}
                """)
        void aDetailHasItsOutputsAsAnObjectOrAsText(String outputs, String kept) throws IOException {
            var found = assertInstanceOf(LookUpResult.Ended.class, detail("succeeded", outputs));

            assertEquals(kept, outputs(found.ran()));
            assertEquals(new RunRef("r1", "t1"), found.ran().ref());
            assertEquals(42, found.ran().usage().tokens());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status,            found
                running,           running
                scheduled,         running
                something-new,     running
                paused,            paused
                succeeded,         succeeded
                partial-succeeded, partial
                failed,            failed
                stopped,           stopped
                """)
        void onlyFinalStatusesAreAnEnd(String status, String word) throws IOException {
            assertEquals(word, detail(status, "{}").word());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                created_at,            age
                1768564740,            60
                1768564740.9,          60
                1768564860,            0
                null,                  -
                0,                     -
                -5,                    -
                '"yesterday"',         -
                1768564740000,         0
                """)
        void aDetailShowsHowLongItsRunHasBeenRunning(String createdAt, Long age) throws IOException {
            var found = assertInstanceOf(LookUpResult.Running.class,
                    found("{\"id\":\"r1\",\"status\":\"running\",\"created_at\":" + createdAt + "}"));
            assertEquals(Optional.ofNullable(age).map(Given::seconds), found.age());
        }

        @ParameterizedTest
        @CsvSource({"0, 0", "null, 0", "400, 400", "20.9, 20", "12001, 12000", "-5, 0", "'\"long\"', 0"})
        void aDetailShowsHowLongItsRunHasMoved(String handoff, long moved) throws IOException {
            var found = assertInstanceOf(LookUpResult.Running.class, found("{\"id\":\"r1\",\"status\":\"running\","
                    + "\"created_at\":1768564740,\"handoff_duration\":" + handoff + "}"));
            assertEquals(List.of(seconds(60), seconds(moved)), List.of(found.age().orElseThrow(), found.moved()));
        }
    }
}
