// Helpers of benchmarks/windows, for Windows. Each mode behaves like a program that people have open beside a batch:
//
//   hold FILE MILLIS SHARE            opens FILE as soon as that succeeds and keeps it open, as a spreadsheet does
//   scan FOLDER MILLIS HOLD SHARE     opens each new or changed file of FOLDER for HOLD ms, as a virus scanner does
//   rename FILE OTHER                 renames FILE and copies it back, as editors and backups do
//   console PAGE COMMAND…             runs a command on a console with this code page
//
// With -DSHIM it is a library instead, see Windows.java.
//
// SHARE adds what other programs may do meanwhile: 1 read, 2 write, 4 rename or delete; 0 is nothing, 7 is everything.
#ifdef SHIM

#include <windows.h>

// The answer is a table without rows. Java frees it with a function of Wine, which frees memory of the process's heap.
__declspec(dllexport) DWORD WINAPI GetAnycastIpAddressTable(USHORT family, void **table) {
    (void) family;
    *table = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, 16);
    return *table == NULL ? ERROR_NOT_ENOUGH_MEMORY : 0;
}

#else

#include <stdio.h>
#include <wchar.h>
#include <windows.h>

#define MOST 64

static int hold(wchar_t *file, DWORD millis, DWORD share) {
    DWORD end = GetTickCount() + millis, error = 0;
    while (GetTickCount() < end) {
        HANDLE handle = CreateFileW(file, GENERIC_READ, share, NULL, OPEN_EXISTING, 0, NULL);
        if (handle == INVALID_HANDLE_VALUE) {
            error = GetLastError();
            Sleep(5);
            continue;
        }
        printf("holding\n");
        fflush(stdout);
        DWORD now = GetTickCount();
        if (now < end) Sleep(end - now);
        CloseHandle(handle);
        return 0;
    }
    printf("not opened: error %lu\n", error);
    return 1;
}

struct file { wchar_t name[MAX_PATH]; FILETIME changed; DWORD size; HANDLE handle; DWORD until; };

static int scan(wchar_t *folder, DWORD millis, DWORD hold, DWORD share) {
    static struct file files[MOST];
    int known = 0, opened = 0, refused = 0;
    wchar_t pattern[2 * MAX_PATH], path[2 * MAX_PATH];
    swprintf(pattern, 2 * MAX_PATH, L"%ls\\*", folder);
    for (DWORD end = GetTickCount() + millis; GetTickCount() < end; Sleep(5)) {
        for (int i = 0; i < known; i++) {
            if (files[i].handle == NULL || GetTickCount() < files[i].until) continue;
            CloseHandle(files[i].handle);
            files[i].handle = NULL;
        }
        WIN32_FIND_DATAW found;
        HANDLE list = FindFirstFileW(pattern, &found);
        if (list == INVALID_HANDLE_VALUE) continue;
        do {
            if (found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) continue;
            int i = 0;
            while (i < known && wcscmp(files[i].name, found.cFileName) != 0) i++;
            if (i == MOST) continue;
            if (i == known) wcscpy(files[known++].name, found.cFileName);
            struct file *file = &files[i];
            int same = CompareFileTime(&file->changed, &found.ftLastWriteTime) == 0 && file->size == found.nFileSizeLow;
            if (same || file->handle != NULL) continue;
            file->changed = found.ftLastWriteTime;
            file->size = found.nFileSizeLow;
            swprintf(path, 2 * MAX_PATH, L"%ls\\%ls", folder, found.cFileName);
            HANDLE handle = CreateFileW(path, GENERIC_READ, share, NULL, OPEN_EXISTING, 0, NULL);
            if (handle == INVALID_HANDLE_VALUE) refused++;
            else {
                opened++;
                file->handle = handle;
                file->until = GetTickCount() + hold;
            }
        } while (FindNextFileW(list, &found));
        FindClose(list);
    }
    printf("opened %d refused %d\n", opened, refused);
    return 0;
}

static int move_and_copy_back(wchar_t *file, wchar_t *other) {
    if (!MoveFileExW(file, other, 0)) {
        printf("not renamed: error %lu\n", GetLastError());
        return 1;
    }
    printf("renamed\n");
    return !CopyFileW(other, file, TRUE);
}

static BOOL WINAPI ignore(DWORD event) {
    (void) event;
    return TRUE;
}

static int console(UINT page, wchar_t *command) {
    SetConsoleCtrlHandler(ignore, TRUE); // Ctrl-C is for the command
    if (!SetConsoleCP(page) || !SetConsoleOutputCP(page)) printf("no code page %u\n", page);
    STARTUPINFOW start = {sizeof start};
    PROCESS_INFORMATION process;
    DWORD code = 1;
    if (!CreateProcessW(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &start, &process)) return 1;
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    printf("EXIT %lu ended.\n", code); // a terminal shows it bit by bit
    return code;
}

int wmain(int count, wchar_t **words) {
    if (count == 5 && wcscmp(words[1], L"hold") == 0) return hold(words[2], _wtoi(words[3]), _wtoi(words[4]));
    if (count == 6 && wcscmp(words[1], L"scan") == 0)
        return scan(words[2], _wtoi(words[3]), _wtoi(words[4]), _wtoi(words[5]));
    if (count == 4 && wcscmp(words[1], L"rename") == 0) return move_and_copy_back(words[2], words[3]);
    if (count > 3 && wcscmp(words[1], L"console") == 0)
        return console(_wtoi(words[2]), wcsstr(wcsstr(GetCommandLineW(), L" console "), words[3]));
    return 2;
}

#endif
