package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Reading what the server sends: streams, events, answers.
final class DifyTest {
    @Nested
    class TheEventStreamReader {
        private static List<String> events(String text, int pieces) throws IOException {
            var found = new ArrayList<String>();
            var lines = new BufferedReader(new InputStreamReader(inPieces(text, pieces), UTF_8));
            for (var data = Transport.event(lines); data.isPresent(); data = Transport.event(lines))
                found.add(data.get());
            return found;
        }

        /// `;` stands for the end of a line. The result is the same however many bytes arrive at a time.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                stream                                                                    | data
                ``                                                                        | []
                ;;;                                                                       | []
                dat                                                                       | []
                event: ping;;data: one;;event: ping;;event: ping;;data: two;;             | [one, two]
                : hello;;id: 7;event: message;data: one;: in between;retry: 5;data: two;; | [one;two]
                database: no;data: three;;                                                | [three]
                data: one\\r;data: two\\r;\\r;event: ping\\r;\\r;data: three\\r;\\r;      | [one;two, three]
                data:a;;data: a;;data:  a;;data:;;                                        | [a, a,  a, ]
                data: one;;data: two                                                      | [one, two]
                data: one;;data: two;                                                     | [one, two]
                data: {"half":                                                            | [{"half":]
                data: größer 日本語 😀;;data: ß;;                                         | [größer 日本語 😀, ß]
                """)
        void splitsAStreamIntoEventsHoweverItsBytesArrive(String stream, String data) throws IOException {
            for (int pieces : new int[] {1, 2, 3, 7, 1 << 20})
                assertEquals(data.replace(';', '\n'), events(stream.translateEscapes().replace(';', '\n'), pieces)
                        .toString(), pieces + " bytes a read");
        }

        @Test
        void readsALineOfSeveralMegabytesCompletely() throws IOException {
            var text = "ä".repeat(3 << 20);

            assertEquals(List.of(text, "end"), events("data: " + text + "\n\ndata: end\n\n", 100_000));
        }
    }

    @Nested
    class TheRunReader {
        private final RunReader reader = new RunReader(AppKind.WORKFLOW);

        private void read(String json) throws IOException {
            reader.add(Json.MAPPER.readTree(json));
        }

        private static String outputs(Response response) {
            return Json.wellFormed(((Response.Ran) response).outputs().toString());
        }

        /// A blocking answer with these outputs.
        private Response.Ran answered(String outputs) throws IOException {
            read("""
                    {"task_id": "t1", "workflow_run_id": "r1", "data": {"id": "r1", "status": "succeeded", "outputs": %s}}
                    """.formatted(outputs));
            return reader.ran().orElseThrow();
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
                {"answer": "\\u00e4 \\/ b"}                 | {"answer":"ä / b"}
                {"text": "{\\"inner\\": 1}"}                | {"text":"{\\"inner\\": 1}"}
                {"a": ["\\ud83d end", "\\ude00"]}           | {"a":["\uFFFD end","\uFFFD"]}
                {"\\ud83d\\ude00": "\\ud83d\\ud83d\\ude00"}  | {"😀":"\uFFFD😀"}
                "{\\"text\\": \\"\\\\ud83d end\\"}"            | {"text":"\uFFFD end"}
                """)
        void keepsNumbersInOutputsExactlyAsWritten(String reported, String kept) throws IOException {
            assertEquals(kept, outputs(answered(reported)));
        }

        @Test
        void readsOutputsOfThirtyMegabytesCompletely() throws IOException {
            var large = "{\"a\":" + "[".repeat(900) + "]".repeat(900) + ",\"b\":\"" + "x".repeat(30_000_000) + "\"}";

            assertEquals(large, outputs(answered(large)));
        }

        /// Events of the run `r1`, with the task `t1`.
        private void events(String... events) throws IOException {
            for (var event : events) read(json(event));
        }

        private static String event(String name, String data) {
            return "{'event':'" + name + "','workflow_run_id':'r1','task_id':'t1','data':" + data + "}";
        }

        @Test
        void passesOnReasoningLikeAnyOtherText() throws IOException {
            events(event("reasoning_chunk", "{'reasoning':'Let me think.','node_id':'llm','is_final':true}"));

            assertEquals(new StreamEvent.Chunk("Let me think."), reader.streamEvent());
        }

        @ParameterizedTest
        @CsvSource({"1795537934, 2026-11-24T16:32:14Z", "null, -", "0, -", "-5, -", "1e300, -", "'\"soon\"', -"})
        void readsTheExpiryTimeOfAHumanInputFormOnlyIfItIsValid(String expiration, String until) throws IOException {
            events(event("human_input_required", "{'form_id':'f','node_title':'Sign','form_token':null,"
                    + "'expiration_time':" + expiration + "}"));

            var form = assertInstanceOf(StreamEvent.FormRequested.class, reader.streamEvent());
            assertEquals(until, form.until().map(Instant::toString).orElse("-"));
            assertEquals(List.of("Sign", ""), List.of(form.node(), form.token()));
        }

        @Test
        void readsThatAFormExpired() throws IOException {
            events(event("human_input_form_timeout", "{'node_id':'n','node_title':'Sign','expiration_time':1}"));

            assertEquals(new StreamEvent.FormExpired("Sign"), reader.streamEvent());
        }

        @Test
        void doesNotMistakeANodeOrMessageIdForTheRunId() throws IOException {
            events("{'event':'message','id':'m1','message_id':'m1','answer':'x'}");
            assertEquals(Optional.empty(), reader.ref());

            events(event("", "{'id':'n1','status':'succeeded','outputs':{}}"),
                    event("node_started", "{'id':'n1','workflow_id':'no'}"),
                    event("iteration_completed", "{'id':'n2','status':'succeeded'}"),
                    "{'workflow_run_id':'r1','data':{'id':'n2'},'event':null}");

            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());
            assertEquals(Optional.empty(), reader.ran());
        }

        @Test
        void ignoresEventsAndFieldsOfLaterVersions() throws IOException {
            events(event("reasoning_chunk", "{'id':'x','status':'failed','reasoning':[{}]}"));
            assertEquals(Optional.empty(), reader.ran());
            assertEquals(Optional.of(new RunRef("r1", "t1")), reader.ref());

            events(event("workflow_finished", "{'new':{'a':[1]},'id':'r1','status':'succeeded','outputs':{}}"));

            assertEquals(RunStatus.SUCCEEDED, reader.ran().orElseThrow().status());
        }

        @Test
        void addsUpThePricesOfNodesExactly() throws IOException {
            var data = "{'id':'n','execution_metadata':{'total_price':%s,'currency':'USD','more':{'total_price':'9'}}}";
            events(event("node_finished", data.formatted("'0.1'")), event("node_finished", data.formatted("0.2")),
                    event("node_finished", data.formatted("'0.0000123'")), event("node_retry", data.formatted("'5'")),
                    event("node_finished", data.formatted("null")),
                    event("node_finished", "{'execution_metadata':null}"),
                    event("workflow_finished", "{'id':'r1','status':'succeeded'}"));

            var cost = reader.ran().orElseThrow().usage().cost();
            assertEquals(new BigDecimal("0.3000123"), cost.price());
            assertEquals("USD", cost.currency());
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
        void reportsNoPriceIfCurrenciesDifferOrAPriceIsInvalid(String one, String its, String other, String theirs,
                BigDecimal price, String currency) throws IOException {
            var data = "{'id':'n','execution_metadata':{'total_price':'%s','currency':'%s'}}";
            events(event("node_finished", data.formatted(one, its)),
                    event("node_finished", data.formatted(other, theirs)),
                    event("workflow_finished", "{'id':'r1','status':'succeeded'}"));

            var cost = reader.ran().orElseThrow().usage().cost();
            assertTrue(price == null ? cost.price() == null : cost.price().compareTo(price) == 0, cost::toString);
            assertEquals(currency, cost.currency());
        }

        /// @param more fields with `'` instead of `"`
        private LookUpResult detail(String status, String more) throws IOException {
            read(json("{'data':{'id':'r1','status':'" + status + "'," + more + "}}"));
            return reader.result(new RunRef("r1", "t1"), NOON);
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                outputs                                 | kept
                {"a": 1, "b": "\\/"}                    | {"a":1,"b":"/"}
                "{\\"a\\": 1, \\"b\\": \\"\\\\/\\"}"    | {"a":1,"b":"/"}
                "{}"                                    | {}
                "null"                                  | {}
                {}                                      | {}
                ""                                      | {}
                null                                    | {}
                "{\\"n\\": 12345678901234567890}"       | {"n":12345678901234567890}
                """)
        void acceptsTheOutputsOfARunRecordAsAnObjectOrAsText(String outputs, String kept) throws IOException {
            var found = assertInstanceOf(LookUpResult.Ended.class, detail("succeeded", "'outputs':" + outputs));

            assertEquals(kept, outputs(found.ran()));
        }

        /// Dify records null for an optional variable that was not sent.
        @Test
        void leavesOutInputsThatWereNotSent() throws IOException {
            assertEquals(Map.of("text", "a", "n", "1"),
                    RunReader.sentCells(Given.tree(json("{'text':'a','lang':null,'n':1,'sys.user_id':'u'}"))));
        }

        /// As Dify 1.9 has stored some.
        @ParameterizedTest
        @ValueSource(strings = {"{", "{\\\"a\\\": \\\"cut o", "[1]"})
        void leavesARunUnknownIfItsRecordHasDamagedOutputs(String outputs) throws IOException {
            var found = assertInstanceOf(LookUpResult.Inconclusive.class, detail("succeeded", "'outputs':'" + outputs + "'"));

            assertEquals(Optional.of(new RunRef("r1", "t1")),
                    assertInstanceOf(Response.Unreadable.class, found.response()).run());
        }

        @Test
        void readsTheInputsOfARunFromItsRecord() throws IOException {
            var found = (LookUpResult.Ended) detail("succeeded",
                    "'inputs':{'text':'a','n':7,'o':{'x':[1]},'sys.user_id':'u','sys.query':'q'}");

            assertEquals(Map.of("text", "a", "n", "7", "o", "{\"x\":[1]}", "query", "q"), found.inputs());
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
        void readsEachRunStatusAndTreatsAnUnknownOneAsRunning(String status, String word) throws IOException {
            assertEquals(word, detail(status, "'outputs':{}").word());
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
        void computesTheAgeOfARunFromItsCreationTime(String createdAt, Long age) throws IOException {
            var found = assertInstanceOf(LookUpResult.Running.class, detail("running", "'created_at':" + createdAt));

            assertEquals(Optional.ofNullable(age).map(Given::seconds), found.age());
        }

        @ParameterizedTest
        @CsvSource({"0, 0", "null, 0", "400, 400", "20.9, 20", "12001, 12000", "-5, 0", "'\"long\"', 0"})
        void readsFromItsRecordHowLongARunMovedBetweenWorkers(String handoff, long moved) throws IOException {
            var found = assertInstanceOf(LookUpResult.Running.class,
                    detail("running", "'created_at':1768564740,'handoff_duration':" + handoff));

            assertEquals(List.of(seconds(60), seconds(moved)), List.of(found.age().orElseThrow(), found.moved()));
        }
    }
}
